"""safetensors files that are written and read tensor by tensor, against the library's own code."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from model_builders import build_model
from prism_trainer.distributed import Ranks
from prism_trainer.engine.sharding import Replicated
from prism_trainer.engine.sources import TensorSource, source_of
from prism_trainer.models import export
from prism_trainer.tensor_files import TensorFiles, write_model, write_tensors

TENSORS: dict[str, Tensor] = {
    "odd": torch.arange(3).to(torch.bfloat16),
    "matrix": torch.randn(4, 5, generator=torch.Generator().manual_seed(0)),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "number": torch.tensor(7.5),
    "empty": torch.zeros(0, 3),
    "count": torch.tensor([2**40, -1]),
    "half": torch.tensor([[1.5]], dtype=torch.float16),
}


def sources(tensors: dict[str, Tensor]) -> dict[str, TensorSource]:
    return {name: source_of(tensor) for name, tensor in tensors.items()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", sources(TENSORS))
    assert_same(load_file(tmp_path / "x.safetensors"), TENSORS)


def test_what_the_library_wrote_is_read(tmp_path: Path) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, tmp_path / "x.safetensors")
    found = TensorFiles(tmp_path / "x.safetensors")
    assert len(found) == len(TENSORS)
    assert_same(dict(found), TENSORS)


def test_no_tensors_are_a_file_too(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {})
    assert not TensorFiles(tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors") == {}


def test_one_tensor_is_held_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []
    held = 0

    class Counted(Tensor):
        def __del__(self) -> None:
            nonlocal held
            held -= 1

    def read() -> Tensor:
        nonlocal held
        held += 1
        alive.append(held)
        return torch.zeros(2).as_subclass(Counted)

    write_tensors(
        tmp_path / "x.safetensors",
        {str(i): TensorSource((2,), torch.float32, read) for i in range(9)},
    )
    assert max(alive) <= 2, alive
    assert len(load_file(tmp_path / "x.safetensors")) == 9


def test_a_process_without_a_path_reads_the_same_in_the_same_order(tmp_path: Path) -> None:
    def order(path: Path | None) -> list[str]:
        read: list[str] = []

        def source(name: str, tensor: Tensor) -> TensorSource:
            def note() -> Tensor:
                read.append(name)
                return tensor

            return TensorSource(tuple(tensor.shape), tensor.dtype, note)

        write_tensors(path, {name: source(name, t) for name, t in TENSORS.items()})
        return read

    assert order(None) == order(tmp_path / "x.safetensors") != []
    assert len(list(tmp_path.iterdir())) == 1


class NoProcessor:
    def save_pretrained(self, folder: Path) -> None: ...


def test_an_export_is_what_transformers_would_have_saved(tmp_path: Path) -> None:
    model = build_model()
    export(tmp_path / "ours", model, NoProcessor(), Replicated(model, Ranks()).weights())
    model.save_pretrained(tmp_path / "theirs")
    for name in ("config.json", "generation_config.json"):
        ours, theirs = (json.loads((tmp_path / f / name).read_text()) for f in ("ours", "theirs"))
        assert ours == theirs
    weights = (load_file(tmp_path / f / "model.safetensors") for f in ("ours", "theirs"))
    assert_same(*weights)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_in_several_files_is_loaded_by_transformers(tmp_path: Path, tied: bool) -> None:
    model: Any = build_model()
    model.config.tie_word_embeddings = tied
    if tied:
        model.lm_head.weight = model.model.language_model.embed_tokens.weight
    export(tmp_path, model, NoProcessor(), {})
    (tmp_path / "model.safetensors").unlink()
    weights = Replicated(model, Ranks()).weights()
    assert ("lm_head.weight" in weights) != tied
    write_model(tmp_path, weights, max_bytes=50_000)
    files = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(files) > 3
    # The headers come on top.
    assert all(path.stat().st_size < 80_000 for path in files)
    loaded: Any = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path)
    assert_same(loaded.state_dict(), model.state_dict())
    assert set(TensorFiles(*files)) == set(weights)
