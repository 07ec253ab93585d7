"""Which experts tokens choose: everywhere, or perception and reasoning kept apart."""

from typing import Any

import pytest
import torch
from torch import Tensor

from discriminator_builders import build_comparisons, build_discriminator
from prism_api.stages import Discriminator as Settings
from prism_trainer.discriminator.routing import CAPTION, REASONING, allowed_experts
from prism_trainer.engine.packing import build_pack
from prism_trainer.engine.policy import hidden_states

PROMPT = -1


def choices(dense: Any, settings: Settings) -> tuple[Tensor, Tensor]:
    """Experts that every token chose, [layers, tokens, k], and the class of each token."""
    model = build_discriminator(dense, settings).model
    pack = build_pack([c.group for c in build_comparisons()])
    model.routing.start(allowed_experts(pack.token_classes, settings))
    with torch.no_grad():
        hidden_states(model.tower, pack)
    return torch.stack(list(model.routing.choices.values())), pack.token_classes


def experts_of(dense: Any, settings: Settings) -> dict[int, set[int]]:
    chosen, classes = choices(dense, settings)
    return {
        kind: set(chosen[:, classes == kind].flatten().tolist())
        for kind in (PROMPT, CAPTION, REASONING)
    }


def test_segment_routing_keeps_captions_and_reasoning_apart(dense: Any) -> None:
    experts = experts_of(dense, Settings(routing="segment"))
    assert experts == {PROMPT: {0, 1, 2, 3}, CAPTION: {0, 1}, REASONING: {2, 3}}


def test_learned_routing_lets_every_token_choose_among_all(dense: Any) -> None:
    experts = experts_of(dense, Settings(routing="learned"))
    assert list(experts.values()) == [{0, 1, 2, 3}] * 3


def test_six_experts_are_halved(dense: Any) -> None:
    settings = Settings(routing="segment", num_experts=6)
    experts = experts_of(dense, settings)
    assert experts[CAPTION] == {0, 1, 2}
    assert experts[REASONING] == {3, 4, 5}


@pytest.mark.parametrize("routing", ["learned", "segment"])
@pytest.mark.parametrize("top_k", [1, 2])
def test_every_token_chooses_different_experts(dense: Any, routing: Any, top_k: int) -> None:
    chosen, _ = choices(dense, Settings(routing=routing, experts_per_token=top_k))
    assert chosen.shape[-1] == top_k
    assert top_k == 1 or (chosen[..., 0] != chosen[..., 1]).all()


def test_router_weights_are_the_renormalised_softmax_of_the_best(dense: Any) -> None:
    router = build_discriminator(dense, Settings()).model.tower.language_model.layers[0].mlp.gate
    hidden = torch.randn(7, router.weight.shape[1], generator=torch.Generator().manual_seed(0))
    router._context.start(None)
    logits, weights, indices = router(hidden)
    expected = (hidden @ router.weight.T).softmax(-1)
    best = expected.sort(descending=True)
    assert torch.equal(indices, best.indices[:, :2])
    kept = best.values[:, :2]
    torch.testing.assert_close(weights, kept / kept.sum(1, keepdim=True))
    torch.testing.assert_close(logits, hidden @ router.weight.T)


def test_the_share_of_forbidden_experts_is_zero_in_the_scored_batch(dense: Any) -> None:
    settings = Settings(routing="segment")
    network = build_discriminator(dense, settings)
    batch = build_comparisons()
    scored = network.score(batch)
    chosen, classes = choices(dense, settings)
    # The shares are counted over the whole batch: the same as in one pack of it.
    expected = torch.stack(
        [torch.bincount(layer.flatten(), minlength=4) for layer in chosen]
    ).double() / len(classes)
    torch.testing.assert_close(scored.expert_shares, expected)
    assert scored.expert_shares.sum(1).tolist() == pytest.approx([2.0] * len(chosen))
