"""Schedule, AdamW and clipping against torch and transformers; bad numbers change nothing."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from prism_api.errors import NonFiniteLoss
from prism_api.optimization import Optimization
from prism_trainer.distributed import Ranks
from prism_trainer.engine.gradients import FlatGradients
from prism_trainer.engine.optimizer import Optimizer, learning_rate

PEAK, STEPS = 3e-3, 20


def rates_of(build: Any, **arguments: int) -> list[float]:
    adamw = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = build(adamw, **arguments)
    rates = []
    for _ in range(STEPS + 1):
        rates.append(schedule.get_last_lr()[0])
        adamw.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 1, 5, 19])
@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_rates_are_those_of_transformers_with_a_first_step_above_zero(
    kind: Any, warmup: int
) -> None:
    if kind == "constant":
        theirs = rates_of(get_constant_schedule_with_warmup, num_warmup_steps=warmup)
    else:
        theirs = rates_of(
            get_cosine_schedule_with_warmup, num_warmup_steps=warmup, num_training_steps=STEPS
        )
    settings = Optimization(learning_rate=PEAK, schedule=kind, warmup_steps=warmup)
    ours = [learning_rate(settings, step, STEPS) for step in range(STEPS)]
    # transformers wastes the first step of its warm-up on a rate of 0; ours is one step ahead.
    assert ours[:warmup] == pytest.approx(theirs[1 : warmup + 1])
    assert ours[warmup:] == pytest.approx(theirs[warmup:STEPS])
    assert min(ours) > 0
    assert max(ours) == pytest.approx(PEAK)


def test_a_warmup_ratio_is_a_share_of_all_steps() -> None:
    by_ratio = Optimization(learning_rate=PEAK, warmup_ratio=0.1)
    by_steps = Optimization(learning_rate=PEAK, warmup_steps=2)
    assert [learning_rate(by_ratio, s, STEPS) for s in range(5)] == [
        learning_rate(by_steps, s, STEPS) for s in range(5)
    ]


class Net(nn.Module):
    """Matrices, vectors and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(5, 7)
        self.norm = nn.LayerNorm(7)
        self.last = nn.Linear(7, 2, bias=False)
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.first(x)).tanh()) + self.frozen
        return result


def trained(net: nn.Module) -> list[nn.Parameter]:
    return [p for p in net.parameters() if p.requires_grad]


def optimizer_of(net: nn.Module, settings: Optimization, offload: bool = False) -> Optimizer:
    parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
    return Optimizer(FlatGradients(parameters, Ranks()), settings, 8, offload)


def loss_at(net: nn.Module, step: int) -> Tensor:
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
    loss: Tensor = net(x).square().mean() * (30 if step % 3 == 2 else 0.3)
    return loss


@pytest.mark.parametrize("clip", [0.0, 0.5], ids=["no clipping", "clipping"])
def test_steps_equal_torch_adamw_with_clipping(clip: float) -> None:
    settings = Optimization(
        learning_rate=1e-2, weight_decay=0.3, grad_clip=clip, schedule="cosine", warmup_steps=2
    )
    ours, theirs = Net(), Net()
    optimizer = optimizer_of(ours, settings)
    matrices = [p for p in trained(theirs) if p.dim() >= 2]
    vectors = [p for p in trained(theirs) if p.dim() < 2]
    adamw = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.999),
        eps=1e-8,
        foreach=False,
        fused=False,
    )
    norms = []
    for step in range(8):
        optimizer.zero_grad()
        loss_at(ours, step).backward()
        norm, rate = optimizer.step(step, 0.0)
        adamw.zero_grad()
        loss_at(theirs, step).backward()
        expected_norm = clip_grad_norm_(trained(theirs), clip or float("inf"), foreach=False)
        for group in adamw.param_groups:
            group["lr"] = learning_rate(settings, step, 8)
        adamw.step()
        assert norm == pytest.approx(float(expected_norm), rel=1e-5)
        norms.append(norm)
        assert rate == adamw.param_groups[0]["lr"]
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert torch.equal(ours.frozen, Net().frozen)
    # Adam forgets a factor that all its gradients share: some are clipped, others are not.
    assert min(norms) < 0.5 < max(norms)


def test_a_restored_optimizer_goes_on_bitwise() -> None:
    settings = Optimization(learning_rate=1e-2)
    net = Net()
    optimizer = optimizer_of(net, settings)

    def step(network: nn.Module, which: Optimizer, number: int) -> None:
        which.zero_grad()
        loss_at(network, number).backward()
        which.step(number, 0.0)

    for number in range(3):
        step(net, optimizer, number)
    twin = copy.deepcopy(net)
    saved = {key: source.read().clone() for key, source in optimizer.state().items()}
    second = optimizer_of(twin, settings)
    second.load_state(saved)
    for number in range(3, 6):
        step(net, optimizer, number)
        step(twin, second, number)
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_the_step_and_changes_nothing(
    place: str, value: float
) -> None:
    net = Net()
    optimizer = optimizer_of(net, Optimization(learning_rate=1e-2))
    loss_at(net, 0).backward()
    optimizer.step(0, 0.0)
    weights = [p.detach().clone() for p in net.parameters()]
    moments = {key: source.read().clone() for key, source in optimizer.state().items()}

    optimizer.zero_grad()
    loss_at(net, 1).backward()
    if place == "gradient":
        assert net.norm.bias.grad is not None
        net.norm.bias.grad[3] = value
    with pytest.raises(NonFiniteLoss, match=r"step 1: .*weights are unchanged"):
        optimizer.step(1, value if place == "loss" else 0.5)
    for before, after in zip(weights, net.parameters(), strict=True):
        assert torch.equal(before, after)
    assert moments
    for key, source in optimizer.state().items():
        assert torch.equal(moments[key], source.read())


def test_a_run_on_the_cpu_leaves_its_states_there_whatever_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def weights(offload: bool) -> list[Tensor]:
        net = Net()
        with monkeypatch.context() as machine:
            machine.setattr(torch.cuda, "is_available", lambda: True)
            optimizer = optimizer_of(net, Optimization(learning_rate=1e-2), offload)
        for number in range(3):
            optimizer.zero_grad()
            loss_at(net, number).backward()
            optimizer.step(number, 0.0)
        assert optimizer.state()
        return [p.detach() for p in net.parameters()]

    for before, after in zip(weights(offload=False), weights(offload=True), strict=True):
        assert torch.equal(before, after)
