"""Turns of a prompt, in each of the published layouts."""

from typing import Any

from prism_api.errors import DataError
from prism_trainer.data.columns import is_text, list_of, text_of
from prism_trainer.data.table import RawRow

Turn = dict[str, str]

_COLUMNS = ("messages", "conversations", "prompt", "question")
"""Where turns may stand; the first that is there counts. `question`, and `prompt` if it is text,
are one user's turn."""
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
_UNSUPPORTED = ("tools", "videos", "audios")
"""Columns of ShareGPT files without which the row would mean something else."""


def turns_of(raw: RawRow, num_images: int, origin: str) -> tuple[Turn, ...]:
    """The row's turns as {role, content}; raises DataError naming the column."""
    for column in _UNSUPPORTED:
        if raw.get(column):
            raise DataError(f"{origin}: has {column}, which are not supported; remove the row")
    column = next((name for name in _COLUMNS if raw.get(name) is not None), "prompt")
    if column == "question" or (column == "prompt" and isinstance(raw.get(column), str)):
        turns = [_question(column, raw, num_images, origin)]
    else:
        turns = [_turn(turn, column, origin) for turn in list_of(raw, column, origin)]
    if not turns:
        raise DataError(f"{origin}: column {column!r} is missing or empty; give the prompt's turns")
    if raw.get("system") and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": text_of(raw, "system", origin)})
    return tuple(turns)


def _question(column: str, raw: RawRow, num_images: int, origin: str) -> Turn:
    """A question as plain text; its images go before it if it does not say where."""
    text = text_of(raw, column, origin)
    marks = "" if "<image>" in text else "<image>" * num_images
    return {"role": "user", "content": marks + text}


def _turn(turn: Any, column: str, origin: str) -> Turn:
    """{role, content}, or {from, value} as ShareGPT has it."""
    fields = turn if isinstance(turn, dict) else {}
    name, content = fields.get("role"), fields.get("content")
    if name is None and content is None:
        name, content = fields.get("from"), fields.get("value")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None or not is_text(content):
        raise DataError(
            f"{origin}: column {column!r} holds {str(turn)[:80]!r}; each turn is "
            "{role: system|user|assistant, content: text} or {from: system|human|gpt, value: text}"
        )
    return {"role": role, "content": content}
