"""A dense model becomes a mixture of experts: what is copied, what is noisy, what is new."""

from typing import Any

import pytest
import torch
from torch import Tensor

from model_builders import TEXT, build_groups, build_model, packed, reference_logits
from prism_api.stages import Discriminator as Settings
from prism_trainer.discriminator.model import upcycle
from prism_trainer.engine.packing import build_pack
from prism_trainer.engine.policy import hidden_states


def test_without_noise_every_hidden_state_is_the_dense_models(dense: Any) -> None:
    model = upcycle(dense, Settings(expert_noise_std=0.0), seed=1)
    groups = build_groups()
    with torch.no_grad():
        ours = hidden_states(model.tower, build_pack(groups))
        theirs = hidden_states(packed(dense).model, build_pack(groups))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        # And against transformers' own dense forward, through the dense head.
        group = groups[0]
        logits = dense.lm_head(ours[: len(group.prompt.token_ids)])
        expected = reference_logits(dense, group.prompt, group.continuations[0])
        torch.testing.assert_close(logits, expected[: len(logits)], rtol=1e-3, atol=1e-3)


def test_noise_changes_the_hidden_states(dense: Any) -> None:
    pack = build_pack(build_groups())
    with torch.no_grad():
        plain, noisy = (
            hidden_states(upcycle(dense, Settings(expert_noise_std=s), seed=1).tower, pack)
            for s in (0.0, 0.05)
        )
    assert (plain - noisy).abs().max() > 0.01


def expert_noise(dense: Any, settings: Settings, seed: int = 1) -> Tensor:
    """Difference of every expert weight from the dense weight it was copied from,
    [experts, weights]."""
    tower = upcycle(dense, settings, seed).tower
    parts = []
    layers = zip(tower.language_model.layers, dense.model.language_model.layers, strict=True)
    for layer, source in layers:
        fused = torch.cat([source.mlp.gate_proj.weight, source.mlp.up_proj.weight])
        parts.append((layer.mlp.experts.gate_up_proj - fused).flatten(1))
        parts.append((layer.mlp.experts.down_proj - source.mlp.down_proj.weight).flatten(1))
    return torch.cat(parts, dim=1).detach()


@pytest.mark.parametrize("std", [0.01, 0.1])
def test_experts_differ_by_noise_of_the_stated_size(dense: Any, std: float) -> None:
    noise = expert_noise(dense, Settings(expert_noise_std=std))
    assert noise.shape[0] == 4
    count = noise.shape[1]
    for expert in noise:
        assert expert.std().item() == pytest.approx(std, rel=5 / (2 * count) ** 0.5)
        assert expert.mean().item() == pytest.approx(0, abs=5 * std / count**0.5)
    correlation = torch.corrcoef(noise) - torch.eye(4)
    assert correlation.abs().max() < 5 / count**0.5, "no two experts share their noise"


def test_noise_is_a_function_of_the_seed(dense: Any) -> None:
    settings = Settings()
    assert torch.equal(expert_noise(dense, settings, 1), expert_noise(dense, settings, 1))
    assert not torch.equal(expert_noise(dense, settings, 1), expert_noise(dense, settings, 2))


def test_routers_and_head_start_small_and_the_rest_is_copied_exactly(dense: Any) -> None:
    model = upcycle(dense, Settings(router_init_std=0.02), seed=1)
    source = dense.model.state_dict()
    new = []
    for name, tensor in model.tower.state_dict().items():
        if name in source:
            assert torch.equal(tensor, source[name]), name
        else:
            new.append(name)
    layers = TEXT["num_hidden_layers"]
    assert len(new) == 3 * layers
    assert {name.split(".mlp.")[1] for name in new} == {
        "gate.weight",
        "experts.gate_up_proj",
        "experts.down_proj",
    }
    routers = torch.cat([layer.mlp.gate.weight for layer in model.tower.language_model.layers])
    assert routers.std().item() == pytest.approx(0.02, rel=0.15)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.5)
    assert model.head.bias is None


def test_a_tensor_without_a_place_is_an_error_not_a_random_start() -> None:
    dense = build_model()
    dense.model.register_buffer("left_over", torch.zeros(3))
    with pytest.raises(RuntimeError, match="left_over"):
        upcycle(dense, Settings(), seed=1)


def test_the_dense_model_is_left_alone(dense: Any) -> None:
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    upcycle(dense, Settings(), seed=1)
    assert dense.config._attn_implementation == "sdpa"
    for name, tensor in dense.state_dict().items():
        assert torch.equal(before[name], tensor)
