"""Rows with a meaning: what each stage needs of a row, checked before the training by
`check_dataset` and again whenever a row is used. The layouts are listed in docs/data.md.
"""

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_trainer.data.columns import is_text, optional_text_of, text_of
from prism_trainer.data.images import ImageRef, images_of
from prism_trainer.data.parquet import BatchCache
from prism_trainer.data.pictures import check_image
from prism_trainer.data.table import RawRow, Table
from prism_trainer.data.tables import open_table
from prism_trainer.data.text_limit import TextLimit
from prism_trainer.data.turns import Turn, turns_of

_CACHE_BYTES = 1 << 30
"""Decoded Parquet data that one Dataset keeps. A stage has one for its training and, while it
evaluates, one more; per process."""

_CHECKED_TOGETHER = 64
"""Rows whose pictures are read at the same time."""

_TAGS = ("<caption>", "</caption>", "<think>", "</think>", "<answer>", "</answer>")

Need = Literal["response", "teacher", "teacher_truth", "pair", "truth"]
"""What a row is for: a demonstration (SFT), a teacher's text (alignment), that and an answer to
verify (alignment with gating), a teacher's and a student's text (warm-up), an answer to verify
(RLVR, evaluation)."""

_SEGMENTS = ("teacher_caption", "teacher_cot", "student_caption", "student_cot")


@dataclass(frozen=True)
class Row:
    """One prompt with everything that is known about it."""

    origin: str
    """File and row, for messages to the user."""
    id: str
    messages: tuple[Turn, ...]
    """The prompt's turns, contents with `<image>` where an image goes."""
    images: tuple[ImageRef, ...]
    response: str | None = None
    """Demonstration (SFT) or whole teacher text (alignment, warm-up)."""
    teacher_caption: str | None = None
    teacher_reasoning: str | None = None
    student_caption: str | None = None
    student_reasoning: str | None = None
    truths: tuple[str, ...] = ()
    """The right answer and its equivalents."""


class Dataset:
    """Rows of one or more files in a row; each is parsed when it is used.

    Raises DataError for a file that is missing, unreadable or empty; bad rows are found when they
    are used, or by `check_dataset` before.
    """

    def __init__(self, sources: Sequence[DataSource], need: Need) -> None:
        self._tables, self._need = _opened(sources), need
        self._starts = list(accumulate((len(table) for table in self._tables), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, position: int) -> Row:
        """The row; raises DataError naming file and row if its shape is wrong."""
        if not 0 <= position < len(self):
            raise IndexError(f"row {position} of {len(self)}")
        number = bisect_right(self._starts, position) - 1
        table, index = self._tables[number], position - self._starts[number]
        return _parsed(table, index, table.row(index), self._need)


RowCheck = Callable[[Table, int, RawRow], None]
"""Of a table's row by number; raises DataError."""


def check_dataset(
    sources: Sequence[DataSource],
    need: Need,
    limit: TextLimit | None = None,
    most_images: int | None = None,
) -> None:
    """Read every row and its pictures once, in order and in bounded memory.

    Raises DataError for a file that is missing, unreadable or empty, and for the first bad row,
    naming file and row; texts of teachers and students may have a limit, and the images that a
    rollout server takes in a prompt.
    """

    def check(table: Table, index: int, raw: RawRow) -> None:
        row = _parsed(table, index, raw, need)
        _check_images(row, most_images)
        if limit is not None:
            _check_texts(row, limit)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for table in _opened(sources):
            _check_table(table, check, threads)


def _check_table(table: Table, check: RowCheck, threads: ThreadPoolExecutor) -> None:
    pending: deque[Future[None]] = deque()
    for checked in _checks(table, check, threads):
        pending.append(checked)
        if len(pending) > _CHECKED_TOGETHER:
            pending.popleft().result()
    for checked in pending:
        checked.result()


def _checks(table: Table, check: RowCheck, threads: ThreadPoolExecutor) -> Iterator[Future[None]]:
    """One for each row, in order, and a failed one where the file can be read no further."""
    try:
        for index, raw in enumerate(table.rows()):
            yield threads.submit(check, table, index, raw)
    except DataError as error:
        failed: Future[None] = Future()
        failed.set_exception(error)
        yield failed


def _check_images(row: Row, most: int | None) -> None:
    """What takes too long to be done again at each use."""
    if most is not None and len(row.images) > most:
        raise DataError(
            f"{row.origin}: has {len(row.images)} images, a rollout server takes {most}; leave the "
            "row out, or set rollout: {backend: inprocess}"
        )
    for image in row.images:
        check_image(image, row.origin)


def _check_texts(row: Row, limit: TextLimit) -> None:
    """The same for texts."""
    for text in (row.response, _whole(row.teacher_caption, row.teacher_reasoning)):
        limit.check(text or "", row.origin, "the teacher's text")
    student = _whole(row.student_caption, row.student_reasoning)
    limit.check(student, row.origin, "the student's text")


def _whole(caption: str | None, reasoning: str | None) -> str:
    return f"{caption or ''}\n{reasoning or ''}"


def _opened(sources: Sequence[DataSource]) -> list[Table]:
    cache = BatchCache(_CACHE_BYTES)
    return [open_table(source.uri, cache) for source in sources]


def _parsed(table: Table, index: int, raw: RawRow, need: Need) -> Row:
    return parse_row(raw, f"{table.path} row {index}", table.path, need)


def parse_row(raw: RawRow, origin: str, path: Path, need: Need) -> Row:
    """Give a raw row its meaning; raises DataError naming `origin` and the column."""
    images = images_of(raw, path.parent, origin)
    turns, response = turns_of(raw, len(images), origin), None
    if need == "response":
        turns, response = _demonstration(turns, raw, origin)
    elif turns[-1]["role"] == "assistant":
        raise DataError(
            f"{origin}: the prompt ends with an assistant's turn, which would give the answer "
            "away; remove it"
        )
    marks = sum(turn["content"].count("<image>") for turn in turns)
    if marks != len(images):
        raise DataError(
            f"{origin}: {marks} <image> in the prompt but {len(images)} images; write one for each"
        )
    if need == "pair":
        raw = _with_segments(raw, origin)
        _whole_text("student", raw, origin)
    if need in ("teacher", "teacher_truth", "pair"):
        response = _whole_text("teacher", raw, origin)
    return Row(
        origin=origin,
        id=str(raw.get("id") or origin),
        messages=turns,
        images=images,
        response=response,
        teacher_caption=optional_text_of(raw, "teacher_caption", origin),
        teacher_reasoning=optional_text_of(raw, "teacher_cot", origin),
        student_caption=raw["student_caption"] if need == "pair" else None,
        student_reasoning=raw["student_cot"] if need == "pair" else None,
        truths=_truths(raw, origin, need) if need in ("truth", "teacher_truth") else (),
    )


def with_system_turn(row: Row, system_message: str | None) -> Row:
    """The row with a system turn, if there is a message and it has none of its own."""
    if system_message is None or row.messages[0]["role"] == "system":
        return row
    turn = {"role": "system", "content": system_message}
    return replace(row, messages=(turn, *row.messages))


def _with_segments(raw: RawRow, origin: str) -> RawRow:
    """A pair of whole responses, without any of the segments, is cut behind the captions."""
    if raw.get("teacher_response") is None or any(raw.get(n) is not None for n in _SEGMENTS):
        return raw
    segments: RawRow = {}
    for who in ("teacher", "student"):
        whole = text_of(raw, f"{who}_response", origin)
        _check_blocks(whole, origin, f"the {who}'s text")
        caption, tag, rest = whole.partition("</caption>")
        segments |= {f"{who}_caption": caption + tag, f"{who}_cot": rest}
    return {**raw, **segments}


def _whole_text(who: str, raw: RawRow, origin: str) -> str:
    """The text that the segments of a teacher or student come from, checked with them."""
    caption, reasoning = (text_of(raw, f"{who}_{part}", origin) for part in ("caption", "cot"))
    whole = optional_text_of(raw, f"{who}_response", origin) or f"{caption}\n{reasoning}"
    _check_blocks(whole, origin, f"the {who}'s text")
    _check_blocks(caption + reasoning, origin, f"{who}_caption with {who}_cot")
    return whole


def _demonstration(
    turns: tuple[Turn, ...], raw: RawRow, origin: str
) -> tuple[tuple[Turn, ...], str]:
    if turns[-1]["role"] == "assistant":
        prompt, response = turns[:-1], turns[-1]["content"]
    else:
        prompt, response = turns, text_of(raw, "teacher_response", origin)
    if not prompt:
        raise DataError(f"{origin}: has an answer but no question; add a user turn")
    _check_blocks(response, origin, "the demonstration")
    return prompt, response


def _check_blocks(text: str, origin: str, what: str) -> None:
    """Looser than the reward's check in one respect: there may be text around the blocks, as some
    teachers do."""
    end = 0
    for tag in _TAGS:
        start = text.find(tag, end)
        if start < 0:
            raise DataError(
                f"{origin}: {what} lacks the three blocks <caption>, <think>, <answer> in this "
                f"order; it begins {text[:60]!r}"
            )
        end = start + len(tag)
    for tag in _TAGS:
        if (count := text.count(tag)) > 1:
            raise DataError(f"{origin}: {what} holds {tag} {count} times; leave only the block's")


def _truths(raw: RawRow, origin: str, need: Need) -> tuple[str, ...]:
    fields = raw.get("reward_model")
    model = fields if isinstance(fields, dict) else {}
    truth = model.get("ground_truth")
    if not is_text(truth) or not truth.strip():
        remedy = "" if need == "truth" else ", or remove stages.align.gating, which asks for it"
        raise DataError(
            f"{origin}: reward_model.ground_truth is missing, empty or not a text; give the answer"
            f"{remedy}"
        )
    others = model.get("equivalent_answers") or []
    if not isinstance(others, list) or not all(map(is_text, others)):
        raise DataError(f"{origin}: reward_model.equivalent_answers is no list of texts; give one")
    return (truth, *others)
