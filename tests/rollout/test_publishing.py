"""The policy's weights in the store, as servers load them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model_builders import build_model, build_policy
from prism_api.resources import DataSource
from prism_api.stages import Lora
from prism_store.checkpoints import read_checkpoint
from prism_store.store import DirectoryStore
from prism_trainer.distributed import Ranks
from prism_trainer.engine.lora import add_adapters
from prism_trainer.rollouts.publish import Publisher
from served_models import Kind, build_served_model, save_served_model, weights_of
from stage_builders import rlvr_stage, stage_config

WEIGHTS = "model.safetensors"


def build_publisher(folder: Path, dtype: torch.dtype = torch.float32) -> Publisher:
    stage = rlvr_stage(DataSource(uri="file:///none.parquet"))
    config = stage_config(stage, folder / "model", folder)
    store = DirectoryStore(config.stage_uri)
    return Publisher(store, config, Ranks(), folder / "work", dtype)


def published(publisher: Publisher, version: int) -> Path:
    return Path(publisher.config.stage_uri.removeprefix("file://")) / f"weights/v{version}"


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_tensors_are_named_shaped_and_valued_as_in_a_published_checkpoint(
    kind: Kind, tmp_path: Path
) -> None:
    """Experts with their inputs first."""
    model = build_served_model(kind, seed=1)
    theirs = load_file(save_served_model(model, tmp_path) / WEIGHTS)
    publisher = build_publisher(tmp_path)
    publisher.publish(weights_of(model), 0)
    ours = load_file(published(publisher, 0) / WEIGHTS)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_tied_head_is_left_out(tmp_path: Path) -> None:
    publisher = build_publisher(tmp_path)
    publisher.publish(build_policy(build_model(tied=True)).weights(), 0)
    assert "lm_head.weight" not in load_file(published(publisher, 0) / WEIGHTS)


def test_adapters_are_merged(tmp_path: Path) -> None:
    model: Any = build_model()
    add_adapters(model, Lora(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.fill_(0.1)
    publisher = build_publisher(tmp_path)
    publisher.publish(build_policy(model).weights(), 0)
    ours, plain = load_file(published(publisher, 0) / WEIGHTS), build_model().state_dict()
    assert ours.keys() == plain.keys()
    changed = {name for name in ours if not torch.equal(ours[name], plain[name])}
    assert changed == {n for n in plain if "_proj." in n and ".language_model." in n}


def test_a_version_is_complete_verified_and_the_only_one(tmp_path: Path) -> None:
    publisher, model = build_publisher(tmp_path), build_served_model("dense", 1)
    first = publisher.publish(weights_of(model), 0)
    second = publisher.publish(weights_of(model), 1)
    assert [first.version, second.version] == [0, 1]
    checkpoint = read_checkpoint(second.checkpoint)
    assert checkpoint.manifest.weight_version == 1
    assert list(checkpoint.files) == [WEIGHTS]
    assert not published(publisher, 0).exists()


def test_a_version_of_an_earlier_attempt_is_replaced(tmp_path: Path) -> None:
    publisher = build_publisher(tmp_path)
    first = publisher.publish(weights_of(build_served_model("dense", 1)), 3)
    again = publisher.publish(weights_of(build_served_model("dense", 2)), 3)
    assert first.version == again.version
    assert first.checkpoint.digest != again.checkpoint.digest
    read_checkpoint(again.checkpoint)


def test_weights_are_published_in_the_servers_precision(tmp_path: Path) -> None:
    publisher = build_publisher(tmp_path, torch.bfloat16)
    publisher.publish(weights_of(build_served_model("dense", 1)), 0)
    tensors = load_file(published(publisher, 0) / WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
