"""Models: a damaged or foreign one is refused by its headers, and nothing is ever filled in with
noise or passed over."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prism_api.errors import DataError
from prism_api.uris import file_uri
from prism_trainer.model_headers import check_model
from prism_trainer.models import LoadedModel, load_policy

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the quickstart's model, to be damaged."""
    return shutil.copytree(digits_folder / "model", tmp_path / "model")


def loaded(folder: Path) -> LoadedModel:
    return load_policy(file_uri(folder), True)


def test_a_whole_model_is_loaded_with_its_own_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)

    state = loaded(folder).model.state_dict()

    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())


TENSOR = "model.language_model.layers.0.self_attn.q_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


def rewrite(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """The weights with some tensors changed; none: left out."""
    weights = {**load_file(folder / WEIGHTS), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path) -> None:
    """The weights in two files with an index, as large models are published."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {name: SHARDS[int("layers" in name)] for name in weights}
    for file in SHARDS:
        part = {name: tensor for name, tensor in weights.items() if places[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_weights_in_several_files_are_the_same_model(folder: Path) -> None:
    whole = loaded(folder).model.state_dict()
    shard(folder)
    again = loaded(folder).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize("written_out", [False, True])
def test_a_tied_head_is_the_embedding_written_out_or_not(folder: Path, written_out: bool) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    embedding = load_file(folder / WEIGHTS)["model.language_model.embed_tokens.weight"]
    rewrite(folder, {"lm_head.weight": embedding.clone() if written_out else None})
    model: Any = loaded(folder).model
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, embedding)


def truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def drop_a_tensor(folder: Path) -> None:
    rewrite(folder, {TENSOR: None})


def drop_all_of_the_tower(folder: Path) -> None:
    names = [name for name in load_file(folder / WEIGHTS) if ".visual." in name]
    rewrite(folder, dict.fromkeys(names))


def reshape_a_tensor(folder: Path) -> None:
    rewrite(folder, {TENSOR: torch.zeros(3, 3)})


def add_a_tensor(folder: Path) -> None:
    rewrite(folder, {"model.language_model.layers.9.mlp.up_proj.weight": torch.zeros(3, 3)})


def quantise_a_tensor(folder: Path) -> None:
    rewrite(folder, {TENSOR: load_file(folder / WEIGHTS)[TENSOR].to(torch.float8_e4m3fn)})


def ask_for_more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (folder / "config.json").write_text(json.dumps(config))


def lose_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / SHARDS[1]).unlink()


def have_another_index(folder: Path) -> None:
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][TENSOR] = SHARDS[0]
    (folder / INDEX).write_text(json.dumps(index))


def have_an_empty_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text("{}")


def lose_a_size(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]["depth"]
    (folder / "config.json").write_text(json.dumps(config))


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


LOADED = "cannot be loaded as a Qwen3-VL"
DAMAGES: dict[Callable[[Path], None], str] = {
    truncate: rf"{WEIGHTS}: has \d+ bytes of \d+",
    empty: f"{WEIGHTS}: is no safetensors file, or a damaged one",
    remove: f"has neither {WEIGHTS} nor {INDEX}",
    drop_a_tensor: f"{WEIGHTS}: {TENSOR} is missing",
    drop_all_of_the_tower: rf"{WEIGHTS}: model\.visual\.\S+, \S+, \S+ and \d+ more are missing",
    reshape_a_tensor: rf"{WEIGHTS}: {TENSOR} has shape \[3, 3\], not \[\d+, \d+\]",
    add_a_tensor: rf"{WEIGHTS}: model\.language_model\.layers\.9\S+ is not of this model",
    quantise_a_tensor: f"{WEIGHTS}: {TENSOR} holds F8_E4M3, not one of F32",
    ask_for_more_layers: r"layers\.\d+\.self_attn\.q_proj\.weight, .* and 8 more are missing",
    lose_a_shard: f"{SHARDS[1]}: is missing, {INDEX} names it",
    have_another_index: f"{SHARDS[0]}: lacks {TENSOR}, which {INDEX} says it has",
    have_an_empty_index: f"{INDEX}: has no weight_map",
    lose_a_size: "config.json: lacks 'depth'",
    be_another_kind: f"{LOADED}: its model_type is 'bert', not one of 'qwen3_vl', 'qwen3_vl_moe'",
    be_no_kind: f"{LOADED}: its model_type is None",
    cut_the_config: "config.json: is no JSON",
}
UNREADABLE: dict[Callable[[Path], None], str] = {
    lose_the_tokenizer: "tokenizer",
    lose_the_processor: "image processor",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_model_is_found_by_its_headers(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)
    with pytest.raises(DataError, match=DAMAGES[damage]) as caught:
        check_model(folder)
    assert str(caught.value).startswith(str(folder))
    with pytest.raises(DataError, match=DAMAGES[damage]):
        loaded(folder)


@pytest.mark.parametrize("damage", UNREADABLE, ids=lambda damage: damage.__name__)
def test_a_model_without_its_processor_is_named(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)
    with pytest.raises(DataError, match=UNREADABLE[damage]) as caught:
        loaded(folder)
    assert str(caught.value).startswith(f"{file_uri(folder)}: {LOADED}")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no model here \(config\.json is missing\)"):
        loaded(tmp_path)
