"""Models: a damaged or foreign one is refused; nothing is ever filled in with noise."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prism_api.errors import DataError
from prism_api.uris import file_uri
from prism_trainer.models import LoadedModel, load_policy

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the quickstart's model, to be damaged."""
    return shutil.copytree(digits_folder / "model", tmp_path / "model")


def loaded(folder: Path) -> LoadedModel:
    return load_policy(file_uri(folder), True, torch.device("cpu"))


def test_a_whole_model_is_loaded_with_its_own_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)

    state = loaded(folder).model.state_dict()

    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def drop_a_tensor(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["model.language_model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def reshape_a_tensor(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["model.language_model.layers.0.self_attn.q_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def be_another_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def be_no_kind(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def cut_the_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def lose_the_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


DAMAGES = {
    truncate: "incomplete metadata",
    empty: "header too small",
    remove: "no file named",
    drop_a_tensor: r"its weights lack model\.language_model\.layers\.0\.self_attn\.q_proj\.weight",
    reshape_a_tensor: "ignore_mismatched_sizes",
    be_another_kind: "its model_type is 'bert', not 'qwen3_vl'",
    be_no_kind: "Unrecognized model",
    cut_the_config: "not a valid JSON file",
    lose_the_tokenizer: "tokenizer",
    lose_the_processor: "image processor",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_model_is_named(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder)

    with pytest.raises(DataError, match=DAMAGES[damage]) as caught:
        loaded(folder)

    assert str(caught.value).startswith(f"{file_uri(folder)}: cannot be loaded as a Qwen3-VL")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model here \(config\.json is missing\)"):
        loaded(tmp_path)
