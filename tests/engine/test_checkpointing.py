"""Recomputing layers in the backward pass changes memory, and no number."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from discriminator_builders import build_comparisons, build_discriminator
from losses_by_split import context_of
from model_builders import build_groups, build_model, build_policy
from prism_api import stages
from prism_api.optimization import Optimization
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.engine.policy import Network, Policy
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.stages.sft import supervised_update

SETTINGS = Optimization(learning_rate=1e-3, grad_clip=0.0)


def gradients(network: Network) -> dict[str, Tensor]:
    parameters = network.model.named_parameters()
    return {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def policy_of(recompute: bool) -> Policy:
    policy = build_policy(build_model(), 60)
    policy.model.train()
    if recompute:
        checkpoint_layers(policy.model)
    policy.start_training(SETTINGS, 1)
    return policy


def discriminator_of(recompute: bool, load_balance_coef: float = 0.1) -> Discriminator:
    settings = stages.Discriminator(routing="segment", load_balance_coef=load_balance_coef)
    network = build_discriminator(build_model(), settings, 120)
    network.model.train()
    if recompute:
        checkpoint_layers(network.model)
    network.start_training(SETTINGS, 1)
    return network


def supervised(recompute: bool) -> tuple[float, dict[str, Tensor]]:
    policy = policy_of(recompute)
    report, _ = supervised_update(context_of(policy), build_groups(), 0)
    return report.loss, gradients(policy)


def adversarial(recompute: bool, load_balance_coef: float = 0.1) -> tuple[float, dict[str, Tensor]]:
    network = discriminator_of(recompute, load_balance_coef)
    batch = build_comparisons()
    report = network.train_on(batch, network.score(batch), 0)
    return report.loss, gradients(network)


Step = Callable[[bool], tuple[float, dict[str, Tensor]]]


@pytest.mark.parametrize("step", [supervised, adversarial])
def test_losses_and_gradients_are_the_same(step: Step) -> None:
    (loss, ours), (expected_loss, theirs) = step(True), step(False)
    assert loss == expected_loss
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_the_load_balance_reaches_the_routers_through_recomputed_layers() -> None:
    _, with_balance = adversarial(True)
    _, without = adversarial(True, load_balance_coef=0.0)
    routers = [name for name in without if name.endswith("mlp.gate.weight")]
    assert len(routers) == 3
    for name in routers:
        difference = (with_balance[name] - without[name]).norm()
        assert float(difference) > 1e-2 * float(without[name].norm()), name


def test_experts_are_counted_once_though_layers_run_twice() -> None:
    network = discriminator_of(True)
    batch = build_comparisons()
    scored = network.score(batch)
    network.train_on(batch, scored, 0)
    assert list(network.model.routing.probabilities) == [0, 1, 2]
    assert scored.expert_shares.sum(1).tolist() == pytest.approx([2.0] * 3)


def kept_bytes(policy: Policy) -> int:
    """What the forward pass keeps for the backward pass, parameters apart."""
    (pack,) = policy.packs(build_groups()[:1])
    parameters = {p.data_ptr() for p in policy.model.parameters()}
    kept: dict[int, int] = {}

    def pack_hook(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        policy.logprobs(pack)
    return sum(kept.values())


def test_activations_of_the_layers_are_not_kept() -> None:
    assert kept_bytes(policy_of(True)) < kept_bytes(policy_of(False)) / 3
