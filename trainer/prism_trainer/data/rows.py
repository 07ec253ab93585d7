"""Rows with a meaning: what each stage needs of a row, checked when the file is opened.

Layouts: SFT as LLaMA-Factory's `messages` + `images`; alignment and RLVR as the reference code's
parquet (`prompt`, `images`, `teacher_caption`, `teacher_cot`, `reward_model`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_trainer.data.tables import RawRow, Table, open_table

_BLOCKS = re.compile("<caption>.*</caption>.*<think>.*</think>.*<answer>.*</answer>", re.DOTALL)
"""Looser than the reward's check: a demonstration may have text around its blocks, as some teachers
do."""

Need = Literal["response", "teacher", "truth"]


@dataclass(frozen=True)
class ImageRef:
    """An image as bytes, or as a path relative to the data file."""

    content: bytes | None
    path: Path | None


@dataclass(frozen=True)
class Row:
    """One prompt with everything that is known about it."""

    origin: str
    """File and row, for messages to the user."""
    id: str
    messages: tuple[dict[str, str], ...]
    """The prompt's turns, contents with `<image>` where an image goes."""
    images: tuple[ImageRef, ...]
    response: str | None = None
    """Demonstration (SFT) or whole teacher text (alignment)."""
    teacher_caption: str | None = None
    teacher_reasoning: str | None = None
    truths: tuple[str, ...] = ()
    """The right answer and its equivalents."""


class Dataset:
    """Rows of one or more files in a row, each checked for what the stage needs."""

    def __init__(self, sources: Sequence[DataSource], need: Need) -> None:
        self._tables: list[Table] = [open_table(source.uri) for source in sources]
        self._need = need
        self._index = [
            (t, i) for t in range(len(self._tables)) for i in range(len(self._tables[t]))
        ]
        for position in range(len(self)):
            self[position]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, position: int) -> Row:
        """The row; raises DataError naming file and row if its shape is wrong."""
        table, index = self._index[position]
        source = self._tables[table]
        return parse_row(source.row(index), f"{source.path} row {index}", source.path, self._need)


def parse_row(raw: RawRow, origin: str, path: Path, need: Need) -> Row:
    """Give a raw row its meaning; raises DataError naming `origin` and the column."""
    turns = _turns(raw, origin)
    response = None
    if need == "response":
        turns, response = _demonstration(turns, raw, origin)
    elif turns[-1]["role"] == "assistant":
        raise DataError(
            f"{origin}: the prompt ends with an assistant's turn, which would give the answer "
            "away; remove it"
        )
    images = tuple(_image(image, origin, path) for image in _list(raw, "images", origin))
    placeholders = sum(turn["content"].count("<image>") for turn in turns)
    if placeholders != len(images):
        raise DataError(f"{origin}: {placeholders} <image> in the prompt but {len(images)} images")
    caption = _optional_text(raw, "teacher_caption", origin)
    reasoning = _optional_text(raw, "teacher_cot", origin)
    if need == "teacher":
        caption = _text(raw, "teacher_caption", origin)
        reasoning = _text(raw, "teacher_cot", origin)
        response = _optional_text(raw, "teacher_response", origin) or f"{caption}\n{reasoning}"
        _check_blocks(response, origin, "the teacher's text")
        _check_blocks(caption + reasoning, origin, "teacher_caption with teacher_cot")
    return Row(
        origin=origin,
        id=str(raw.get("id") or origin),
        messages=turns,
        images=images,
        response=response,
        teacher_caption=caption,
        teacher_reasoning=reasoning,
        truths=_truths(raw, origin) if need == "truth" else (),
    )


def _turns(raw: RawRow, origin: str) -> tuple[dict[str, str], ...]:
    column = "messages" if raw.get("messages") is not None else "prompt"
    turns = _list(raw, column, origin)
    if not turns:
        raise DataError(f"{origin}: column {column!r} is missing or empty; give the prompt's turns")
    for turn in turns:
        is_turn = isinstance(turn, dict) and isinstance(turn.get("content"), str)
        if not is_turn or turn.get("role") not in ("system", "user", "assistant"):
            raise DataError(
                f"{origin}: column {column!r} holds {str(turn)[:80]!r}; "
                "each turn is {role: system|user|assistant, content: text}"
            )
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def _demonstration(
    turns: tuple[dict[str, str], ...], raw: RawRow, origin: str
) -> tuple[tuple[dict[str, str], ...], str]:
    if turns[-1]["role"] == "assistant":
        prompt, response = turns[:-1], turns[-1]["content"]
    else:
        prompt, response = turns, _text(raw, "teacher_response", origin)
    if not prompt:
        raise DataError(f"{origin}: has an answer but no question; add a user turn")
    _check_blocks(response, origin, "the demonstration")
    return prompt, response


def _check_blocks(response: str, origin: str, what: str) -> None:
    if not _BLOCKS.search(response):
        raise DataError(
            f"{origin}: {what} lacks the three blocks <caption>, <think>, <answer> in this order; "
            f"it begins {response[:60]!r}"
        )


def _truths(raw: RawRow, origin: str) -> tuple[str, ...]:
    model = raw.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, dict) else None
    if not isinstance(truth, str) or not truth.strip():
        raise DataError(
            f"{origin}: reward_model.ground_truth is missing, empty or not a text; give the answer"
        )
    assert isinstance(model, dict)
    others = model.get("equivalent_answers") or []
    if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
        raise DataError(f"{origin}: reward_model.equivalent_answers is no list of texts; give one")
    return (truth, *others)


def _image(image: Any, origin: str, path: Path) -> ImageRef:
    if isinstance(image, str):
        image = {"path": image}
    content, name = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (0, 0)
    if isinstance(content, bytes) and content:
        return ImageRef(content, None)
    if content or not isinstance(name, str) or not name:
        raise DataError(
            f"{origin}: an image is {str(image)[:80]!r}, neither bytes nor a path; give one of them"
        )
    file = path.parent / name
    if not file.is_file():
        raise DataError(f"{origin}: image file {file} does not exist")
    return ImageRef(None, file)


def _list(raw: RawRow, column: str, origin: str) -> list[Any]:
    value = raw.get(column)
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{origin}: column {column!r} is a {type(value).__name__}, not a list")
    return value


def _text(raw: RawRow, column: str, origin: str) -> str:
    value = raw.get(column)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{origin}: column {column!r} is missing, empty or not a text")
    return value


def _optional_text(raw: RawRow, column: str, origin: str) -> str | None:
    return None if raw.get(column) is None else _text(raw, column, origin)
