"""safetensors files written and read one tensor at a time: no process ever holds all of them.

The tensors may lie in parts over the processes: all take part in writing, one of them writes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from prism_trainer.engine.sources import TensorSource

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
_MAX_BYTES = 5_000_000_000
"""Of one file of a model; hubs and loaders expect a few gigabytes."""


def write_tensors(path: Path | None, tensors: Mapping[str, TensorSource]) -> None:
    """One file; processes without a path only give their parts."""
    # Wider types first: then every tensor is aligned to its own size, which the format asks for.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize)
    if path is None:
        for _, source in ordered:
            source.read()
        return
    with path.open("wb") as file:
        file.write(_header(ordered))
        for _, source in ordered:
            data = source.read().cpu().contiguous().reshape(-1)
            file.write(data.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _header(ordered: list[tuple[str, TensorSource]]) -> bytes:
    """Length, then JSON: name to type, shape and place."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, source in ordered:
        end = offset + _size(source)
        place = {"shape": list(source.shape), "data_offsets": [offset, end]}
        entries[name] = {"dtype": _DTYPES[source.dtype], **place}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _size(source: TensorSource) -> int:
    return torch.Size(source.shape).numel() * source.dtype.itemsize


def write_model(
    folder: Path | None, weights: Mapping[str, TensorSource], max_bytes: int = _MAX_BYTES
) -> None:
    """A model's weights as transformers and vLLM look for them: one file, or several with an
    index."""
    parts: list[dict[str, TensorSource]] = [{}]
    room = max_bytes
    for name, source in weights.items():
        if parts[-1] and _size(source) > room:
            parts.append({})
            room = max_bytes
        parts[-1][name] = source
        room -= _size(source)
    count = len(parts)
    files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    files = files if count > 1 else ["model.safetensors"]
    for file, part in zip(files, parts, strict=True):
        write_tensors(folder and folder / file, part)
    if folder is not None and count > 1:
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        total = sum(_size(source) for source in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of some files by name, each read when it is asked for."""

    def __init__(self, *paths: Path) -> None:
        files: list[Any] = [safe_open(path, "pt") for path in paths]
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
