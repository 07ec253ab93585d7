"""Checks a model's files by their headers, before anything is loaded: what is missing, too much,
of another shape or cut off. No torch.

transformers alone would fill what is missing with noise and pass over what is too much.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism_api.errors import DataError
from prism_trainer.model_tensors import (
    LANGUAGE_HEAD,
    Shape,
    config_problem,
    is_experts,
    tensors_of,
    transposed,
)

CONFIG, SINGLE = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = ("F32", "BF16", "F16")
_NAMED = 3
"""Of many problems of one kind, so many are written out."""
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """A tensor as its file's header describes it."""

    file: str
    shape: Shape
    dtype: str


def check_model(folder: Path, optional: Collection[str] = ()) -> None:
    """Raise DataError, with files and tensors by name, unless the folder holds a whole Qwen3-VL.

    `optional`: tensors that may be there or not.
    """
    config = read_config(folder)
    found = read_entries(folder)
    try:
        expected = tensors_of(config)
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG}: lacks {error}, which a Qwen3-VL has") from None
    if config.get("tie_word_embeddings", False):
        optional = (*optional, LANGUAGE_HEAD)  # written out or not, it is the embedding
    problems = [*_missing(expected, found, optional), *_wrong(expected, found, optional)]
    if problems:
        remedy = "take a whole copy of the model, and the config.json that belongs to it"
        raise DataError(f"{folder}: {'; '.join(problems)}; {remedy}")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a Qwen3-VL that can be trained; raises DataError."""
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(f"{folder}: no model here (config.json is missing); check the model's uri")
    config = _json(path)
    try:
        problem = config_problem(config)
    except (KeyError, TypeError) as error:
        problem = f"it lacks {error}"
    if problem:
        raise DataError(f"{path}: cannot be loaded as a Qwen3-VL: {problem}")
    return config


def read_entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's safetensors files, by name; raises DataError."""
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    index = folder / INDEX
    if not index.is_file():
        raise DataError(f"{folder}: has neither {SINGLE} nor {INDEX}; take a whole copy")
    places = _json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) for f in places.values()):
        raise DataError(f"{index}: has no weight_map of tensors to files; take a whole copy")
    entries: dict[str, Entry] = {}
    for file in sorted(set(places.values())):
        if not (folder / file).is_file():
            raise DataError(f"{folder / file}: is missing, {INDEX} names it; take a whole copy")
        entries |= _header(folder / file)
    for name, file in places.items():
        if name not in entries or entries[name].file != file:
            raise DataError(f"{folder / file}: lacks {name}, which {INDEX} says it has")
    return entries


def _header(path: Path) -> dict[str, Entry]:
    """Of one safetensors file: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _LONGEST_HEADER else b""
    size = path.stat().st_size
    try:
        header: Any = json.loads(text) if len(text) == length else None
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        entries = {
            name: Entry(path.name, tuple(entry["shape"]), entry["dtype"])
            for name, entry in header.items()
        }
    except (ValueError, AttributeError, KeyError, TypeError):
        raise DataError(f"{path}: is no safetensors file, or a damaged one; copy it anew") from None
    if size != 8 + length + end:
        raise DataError(f"{path}: has {size} bytes of {8 + length + end}; copy it anew")
    return entries


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: is no JSON ({error}); take a whole copy of the model") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds no JSON object; take a whole copy of the model")
    return document


def _missing(
    expected: Mapping[str, Shape], found: Mapping[str, Entry], optional: Collection[str]
) -> Iterator[str]:
    lacking = [name for name in expected if name not in found and name not in optional]
    if lacking:
        files = ", ".join(sorted({entry.file for entry in found.values()}))
        yield f"{files}: {_some(lacking)} missing"


def _wrong(
    expected: Mapping[str, Shape], found: Mapping[str, Entry], optional: Collection[str]
) -> Iterator[str]:
    known_names = {*expected, *optional}
    extra = [f"{entry.file}: {name}" for name, entry in found.items() if name not in known_names]
    if extra:
        yield f"{_some(extra)} not of this model"
    known = {name: entry for name, entry in found.items() if name in expected}
    flipped = all(
        entry.shape == transposed(expected[name])
        for name, entry in known.items()
        if is_experts(name)
    )
    for name, entry in known.items():
        wanted = expected[name]
        if flipped and is_experts(name):
            continue
        if entry.shape != wanted:
            yield f"{entry.file}: {name} has shape {list(entry.shape)}, not {list(wanted)}"
            return
        if entry.dtype not in _DTYPES:
            yield f"{entry.file}: {name} holds {entry.dtype}, not one of {', '.join(_DTYPES)}"
            return


def _some(names: list[str]) -> str:
    """So many names and how many more."""
    more = len(names) - _NAMED
    written = ", ".join(names[:_NAMED])
    verb = "is" if len(names) == 1 else "are"
    return f"{written}{f' and {more} more' if more > 0 else ''} {verb}"
