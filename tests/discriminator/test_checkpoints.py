"""Discriminators as checkpoints in Hugging Face layout: written, read by transformers, taken up."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, Qwen3VLMoeForConditionalGeneration

from discriminator_builders import build_comparisons, build_discriminator, decided
from model_builders import TEXT, build_model, model_inputs
from prism_api.errors import DataError, SpecError
from prism_api.stages import Discriminator as Settings
from prism_api.uris import file_uri
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.discriminator.layout import OwnTensors, published
from prism_trainer.discriminator.loading import load_discriminator
from prism_trainer.discriminator.model import DiscriminatorModel, upcycle
from prism_trainer.discriminator.start import HEAD
from prism_trainer.distributed import Ranks
from prism_trainer.models import export_model
from prism_trainer.tensor_files import TensorFiles

WEIGHTS = "model.safetensors"
SETTINGS = Settings()


def write(network: Discriminator, folder: Path) -> Path:
    """As a stage's checkpoint has it."""
    export_model(folder, network.model.tower.config, published(network.weights()))
    return folder


def network_of(model: DiscriminatorModel) -> Discriminator:
    return Discriminator(model, SETTINGS, Ranks(), "fp32", 10_000)


@pytest.fixture
def written(dense: Any, tmp_path: Path) -> Path:
    return write(build_discriminator(dense, SETTINGS), tmp_path / "discriminator")


def square_dense() -> Any:
    """Of a shape whose experts look the same in both layouts: one matrix or the other is square."""
    return build_model(text={"intermediate_size": TEXT["hidden_size"]})


@pytest.mark.parametrize("shape", ["usual", "square"])
def test_transformers_loads_it_and_computes_the_same_scores(
    dense: Any, tmp_path: Path, shape: str
) -> None:
    network = build_discriminator(dense if shape == "usual" else square_dense(), SETTINGS)
    folder = write(network, tmp_path)
    theirs, found = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == "Qwen3VLMoeModel"
    assert (set(found["missing_keys"]), set(found["unexpected_keys"])) == (set(), {HEAD})
    head = load_file(folder / WEIGHTS)[HEAD][0]
    batch = build_comparisons()
    compared = 0
    for comparison, scores in zip(batch, network.score(batch).scores, strict=True):
        for student, ours in zip(comparison.students, scores.students, strict=True):
            for segment, score in zip(student, ours, strict=True):
                theirs.rope_deltas = None
                with torch.no_grad():
                    inputs = model_inputs(comparison.prompt, segment)
                    hidden = theirs(**inputs).last_hidden_state[0, -1]
                assert score.item() == pytest.approx((hidden @ head).item(), abs=1e-4)
                compared += 1
    assert compared == 20


def test_experts_lie_as_in_published_checkpoints(written: Path) -> None:
    """[experts, in, out], which is not what transformers' own save_pretrained writes."""
    hidden, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    tensors = load_file(written / WEIGHTS)
    stem = "model.language_model.layers.0.mlp"
    assert tensors[f"{stem}.experts.gate_up_proj"].shape == (4, hidden, 2 * inner)
    assert tensors[f"{stem}.experts.down_proj"].shape == (4, inner, hidden)
    assert tensors[f"{stem}.gate.weight"].shape == (4, hidden)


@pytest.mark.parametrize("shape", ["usual", "square"])
def test_what_was_written_is_read_back_equal(dense: Any, tmp_path: Path, shape: str) -> None:
    source = dense if shape == "usual" else square_dense()
    network = build_discriminator(source, SETTINGS, seed=1)
    folder = write(network, tmp_path)
    other = build_discriminator(source, SETTINGS, seed=2)
    other.load_weights(OwnTensors(TensorFiles(folder / WEIGHTS)))
    ours, theirs = network.model.state_dict(), other.model.state_dict()
    assert len(ours) > 50
    assert [name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])] == []


def assert_same_tower(model: DiscriminatorModel, expected: dict[str, Tensor]) -> None:
    found = model.tower.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def save_full(folder: Path, source: DiscriminatorModel, hub_layout: bool) -> None:
    """A whole Qwen3-VL-MoE with a language-model head, as `save_pretrained` writes it, or with its
    experts as published files have them."""
    config = copy.deepcopy(source.tower.config)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "sdpa"
    full = Qwen3VLMoeForConditionalGeneration(config)
    full.model.load_state_dict(source.tower.state_dict())
    full.save_pretrained(folder)
    if hub_layout:
        tensors = load_file(folder / WEIGHTS)
        for name in [name for name in tensors if ".experts." in name]:
            tensors[name] = tensors[name].transpose(1, 2).contiguous()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("hub_layout", [False, True], ids=["save_pretrained", "published"])
def test_a_qwen3_vl_moe_can_be_the_start(dense: Any, tmp_path: Path, hub_layout: bool) -> None:
    """As it is, without noise; its head is the upcycled one's."""
    source = decided(upcycle(dense, SETTINGS, seed=5))
    save_full(tmp_path, source, hub_layout)
    model = load_discriminator(file_uri(tmp_path), SETTINGS, seed=9)
    assert_same_tower(model, source.tower.state_dict())
    assert torch.equal(model.head.weight, upcycle(dense, SETTINGS, seed=9).head.weight)
    batch = build_comparisons()
    with torch.no_grad():
        model.head.weight.copy_(source.head.weight)
    ours, theirs = (network_of(m).score(batch) for m in (model, source))
    for a, b in zip(ours.scores, theirs.scores, strict=True):
        torch.testing.assert_close(a.students, b.students, rtol=0, atol=0)
    assert torch.equal(ours.expert_shares, theirs.expert_shares)


def test_a_discriminator_of_a_run_before_is_taken_up_with_its_head(
    dense: Any, tmp_path: Path
) -> None:
    network = build_discriminator(dense, SETTINGS, seed=1)
    write(network, tmp_path)
    model = load_discriminator(file_uri(tmp_path), SETTINGS, seed=2)
    assert_same_tower(model, network.model.tower.state_dict())
    assert torch.equal(model.head.weight, network.model.head.weight)
    batch = build_comparisons()
    taken = network_of(model)
    assert torch.equal(
        taken.score(batch).scores[0].students, network.score(batch).scores[0].students
    )
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "path", "remedy"),
    [
        (Settings(num_experts=8), "numExperts", "set numExperts: 4"),
        (Settings(experts_per_token=1), "expertsPerToken", "set expertsPerToken: 2"),
    ],
)
def test_a_mixture_of_other_settings_is_refused(
    dense: Any, written: Path, settings: Settings, path: str, remedy: str
) -> None:
    with pytest.raises(SpecError) as caught:
        load_discriminator(file_uri(written), settings, seed=1)
    (problem,) = caught.value.problems
    assert (problem.path, problem.remedy) == (f"stages.align.discriminator.{path}", remedy)


def test_a_mixture_that_lacks_a_tensor_is_refused(dense: Any, written: Path) -> None:
    weights = load_file(written / WEIGHTS)
    name = "model.language_model.layers.1.mlp.experts.down_proj"
    del weights[name]
    save_file(weights, written / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"{WEIGHTS}: {name} is missing"):
        load_discriminator(file_uri(written), SETTINGS, seed=1)


def test_another_kind_of_model_is_refused(dense: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="model_type is 'bert', not one of 'qwen3_vl', 'qwen3_vl_m"):
        load_discriminator(file_uri(tmp_path), SETTINGS, seed=1)
