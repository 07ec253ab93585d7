"""The policy's weights in the store, as servers load them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prism_api.resources import DataSource
from prism_store.checkpoints import read_checkpoint
from prism_store.store import DirectoryStore
from prism_trainer.distributed import Ranks
from prism_trainer.rollouts import publish as publish_module
from prism_trainer.rollouts.publish import Publisher, hub_tensors, save_in_parts
from served_models import build_served_model, save_served_model
from stage_builders import rlvr_stage, stage_config


def build_publisher(folder: Path, dtype: torch.dtype = torch.float32) -> Publisher:
    stage = rlvr_stage(DataSource(uri="file:///none.parquet"))
    config = stage_config(stage, folder / "model", folder)
    store = DirectoryStore(config.stage_uri)
    return Publisher(store, config, Ranks(), folder / "work", dtype)


def published(publisher: Publisher, version: int) -> Path:
    return Path(publisher.config.stage_uri.removeprefix("file://")) / f"weights/v{version}"


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_tensors_are_named_shaped_and_valued_as_in_a_published_checkpoint(
    kind: str, tmp_path: Path
) -> None:
    model = build_served_model(kind, seed=1)  # type: ignore[arg-type]
    theirs = load_file(save_served_model(model, tmp_path) / "model.safetensors")
    ours = dict(hub_tensors(model, torch.float32))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_experts_are_laid_out_input_first() -> None:
    shapes = {n: tuple(t.shape) for n, t in hub_tensors(build_served_model("moe", 1), torch.half)}
    prefix = "model.language_model.layers.0.mlp.experts"
    assert shapes[f"{prefix}.gate_up_proj"] == (4, 64, 2 * 96)
    assert shapes[f"{prefix}.down_proj"] == (4, 96, 64)


def test_a_tied_head_is_left_out() -> None:
    model = build_served_model("dense", 1)
    assert "lm_head.weight" in dict(hub_tensors(model, torch.float32))
    model.config.tie_word_embeddings = True
    assert "lm_head.weight" not in dict(hub_tensors(model, torch.float32))


def test_a_version_is_complete_verified_and_the_only_one(tmp_path: Path) -> None:
    publisher, model = build_publisher(tmp_path), build_served_model("dense", 1)
    first = publisher.publish(model, 0)
    second = publisher.publish(model, 1)
    assert [first.version, second.version] == [0, 1]
    checkpoint = read_checkpoint(second.checkpoint)
    assert checkpoint.manifest.weight_version == 1
    assert list(checkpoint.files) == ["model-00000.safetensors"]
    assert not published(publisher, 0).exists()


def test_a_version_of_an_earlier_attempt_is_replaced(tmp_path: Path) -> None:
    publisher = build_publisher(tmp_path)
    first = publisher.publish(build_served_model("dense", 1), 3)
    again = publisher.publish(build_served_model("dense", 2), 3)
    assert first.version == again.version
    assert first.checkpoint.digest != again.checkpoint.digest
    read_checkpoint(again.checkpoint)


def test_weights_are_published_in_the_servers_precision(tmp_path: Path) -> None:
    publisher = build_publisher(tmp_path, torch.bfloat16)
    publisher.publish(build_served_model("dense", 1), 0)
    tensors = load_file(published(publisher, 0) / "model-00000.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_large_models_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_module, "_FILE_BYTES", 100)
    values = {str(i): torch.full((5,), float(i)) for i in range(12)} | {"big": torch.ones(100)}

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from values.items()

    save_in_parts(tensors(), tmp_path)
    parts = [load_file(path) for path in sorted(tmp_path.iterdir())]
    assert [len(part) for part in parts] == [5, 5, 2, 1]
    merged = {name: tensor for part in parts for name, tensor in part.items()}
    assert merged.keys() == values.keys()
    assert all(torch.equal(merged[name], values[name]) for name in values)
