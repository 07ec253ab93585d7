"""What only a GPU can show: the kernel, half precision, states that come and go. Skipped elsewhere.

A tiny model; numbers are compared with the CPU's in float32.
"""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from discriminator_builders import build_comparisons, decided
from losses_by_split import context_of
from model_builders import build_groups, build_model, build_policy, packed
from prism_api import stages
from prism_api.optimization import Optimization
from prism_api.resources import Precision
from prism_trainer.discriminator.discriminator import Discriminator
from prism_trainer.discriminator.model import upcycle
from prism_trainer.distributed import Ranks
from prism_trainer.engine.optimizer import Optimizer
from prism_trainer.engine.policy import Policy
from prism_trainer.engine.sharding import checkpoint_layers
from prism_trainer.stages.sft import supervised_update

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SETTINGS = Optimization(learning_rate=1e-2)
STEPS = 3


@pytest.fixture(autouse=True)
def _leave_the_group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def gpu() -> Ranks:
    return Ranks(device=torch.device("cuda"))


def policy_of(precision: Precision, offload: bool = False, recompute: bool = False) -> Policy:
    model = packed(build_model()).train()
    if recompute:
        checkpoint_layers(model)
    policy = Policy(model, gpu(), precision, 60, "fsdp2")
    policy.offload_optimizer = offload
    policy.start_training(SETTINGS, STEPS)
    return policy


def losses_of(policy: Policy) -> list[float]:
    context = context_of(policy)
    return [supervised_update(context, build_groups(), step)[1] for step in range(STEPS)]


@pytest.fixture(scope="module")
def on_cpu() -> list[float]:
    policy = build_policy(build_model(), 60)
    policy.start_training(SETTINGS, STEPS)
    return losses_of(policy)


def test_losses_in_float32_are_those_of_the_cpu(on_cpu: list[float]) -> None:
    assert losses_of(policy_of("fp32")) == pytest.approx(on_cpu, rel=1e-4)


def test_losses_in_bfloat16_are_near(on_cpu: list[float]) -> None:
    policy = policy_of("bf16")
    assert policy.sharding.casts
    assert losses_of(policy) == pytest.approx(on_cpu, rel=0.03)
    assert {source.dtype for source in policy.weights().values()} == {torch.float32}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_states_on_the_host_change_nothing(precision: Precision, tolerance: float) -> None:
    """But for the order of sums on a GPU, which is not always the same."""
    kept, moved = policy_of(precision), policy_of(precision, offload=True)
    assert losses_of(moved) == pytest.approx(losses_of(kept), rel=tolerance)
    assert isinstance(moved.optimizer, Optimizer)
    assert isinstance(kept.optimizer, Optimizer)
    ours, theirs = moved.optimizer.state(), kept.optimizer.state()
    assert ours.keys() == theirs.keys() != set()
    resting = [value for slots in moved.optimizer._adamw.state.values() for value in slots.items()]
    assert {v.device.type for key, v in resting if key != "step"} == {"cpu"}
    for name, source in ours.items():
        moment, expected = source.read().cpu(), theirs[name].read().cpu()
        size = float(expected.norm())
        assert float((moment - expected).norm()) < 10 * tolerance * size + 1e-12, name


def test_recomputed_layers_change_next_to_nothing() -> None:
    ours, theirs = losses_of(policy_of("bf16", recompute=True)), losses_of(policy_of("bf16"))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_the_discriminator_plays_in_half_precision() -> None:
    def losses(ranks: Ranks, precision: Precision) -> list[float]:
        settings = stages.Discriminator(load_balance_coef=0.1)
        model = decided(upcycle(build_model(), settings, 4)).train()
        network = Discriminator(model, settings, ranks, precision, 120, "fsdp2")
        network.start_training(Optimization(learning_rate=1e-3), STEPS)
        batch = build_comparisons()
        return [network.train_on(batch, network.score(batch), step).loss for step in range(STEPS)]

    assert losses(gpu(), "bf16") == pytest.approx(losses(Ranks(), "fp32"), rel=0.05)
