"""What `prism plan` says of a step's parameters and of the memory of its GPUs."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from prism_api.memory import GIB, MemoryPlan, plan_memory, trained_parameters
from prism_api.model_shape import ModelShape
from prism_api.resources import Saving
from prism_api.run import AnyStage
from prism_api.stages import AlignStage
from prism_operator.planning.plan import TrainStep

_WIDTH = 100
_INDENT = " " * 13

_FIELDS = {
    "recompute_policy": "gradientCheckpointing",
    "recompute_discriminator": "discriminator.gradientCheckpointing",
    "offload_optimizer": "offloadOptimizer",
}
"""The field of a stage that decides about each of the Savings."""


@dataclass(frozen=True)
class _Stage:
    """A step whose models have known sizes."""

    step: TrainStep
    policy: ModelShape
    dense: ModelShape | None
    """What is upcycled to the discriminator, if there is one."""

    def planned(self, settings: Mapping[str, Saving] | None = None) -> MemoryPlan:
        """The memory as the run has it, or with other settings of all savings."""
        step = self.step
        stage = _with(step.stage, settings) if settings else step.stage
        memory = step.workers.gpu_memory_gib * GIB
        return plan_memory(stage, step.workers, step.rollout, self.policy, self.dense, memory)


def memory_lines(step: TrainStep, shapes: Mapping[str, ModelShape]) -> Iterator[str]:
    """Parameters, and where there are GPUs, what each of them must hold.

    `shapes` are the sizes of models by uri, as far as they are known.
    """
    policy = shapes.get(step.model.uri)
    opponent = step.discriminator_model
    dense = shapes.get(opponent.uri) if opponent else None
    if policy is None or (opponent and dense is None):
        missing = step.model.uri if policy is None or opponent is None else opponent.uri
        yield f"  parameters unknown: the config.json of {missing} is not on this machine"
        return
    yield "  parameters " + ", ".join(_parameters(step, policy, dense))
    if step.gpus:
        yield from _needed_lines(_Stage(step, policy, dense))


def _parameters(step: TrainStep, policy: ModelShape, dense: ModelShape | None) -> Iterator[str]:
    trained = trained_parameters(step.stage, policy)
    yield f"policy {policy.parameters:,} ({trained:,} trained)"
    if dense is not None and isinstance(step.stage, AlignStage):
        settings = step.stage.discriminator
        upcycled = dense.upcycled(settings.num_experts, settings.experts_per_token)
        yield f"discriminator {upcycled.parameters:,}"


def _needed_lines(stage: _Stage) -> Iterator[str]:
    needed = stage.planned()
    phases = ", ".join(f"{name} {size / GIB:.1f}" for name, size in needed.phases.items())
    usable = f"{needed.usable_bytes / GIB:.1f} usable ({needed.gpu_bytes / GIB:.0f})"
    yield from _wrapped("memory", f"{phases} GiB of {usable} per GPU")
    yield f"  loading    {needed.loading_bytes / GIB:.1f} GiB of host memory per process"
    if needed.rollout_sequences is not None:
        yield f"  at once    {needed.rollout_sequences} sequences of the largest length"
    for i, saving in enumerate(list(_savings(stage, needed)) or ["none"]):
        yield ("" if i else "  savings").ljust(len(_INDENT)) + saving
    if not needed.fits:
        yield from _wrapped("warning", f"does not fit: {_remedy(stage)}")


def _savings(stage: _Stage, needed: MemoryPlan) -> Iterator[str]:
    """Every saving that is made, and the peak if this one alone were not."""
    words = {
        "recompute_policy": "the policy's layers are recomputed",
        "recompute_discriminator": "the discriminator's layers are recomputed",
        "offload_optimizer": "optimizer states on the host "
        f"({needed.host_bytes / GIB:.1f} GiB per process)",
    }
    made = asdict(needed.savings)
    for name in (name for name, on in made.items() if on):
        others: dict[str, Saving] = {
            n: "always" if on and n != name else "never" for n, on in made.items()
        }
        peak = max(stage.planned(others).phases.values())
        yield f"{words[name]}; without this {peak / GIB:.1f} GiB"


def _remedy(stage: _Stage) -> str:
    """The savings that the run forbids, if they would do; otherwise what makes less to hold."""
    current = _settings(stage.step.stage)
    free: dict[str, Saving] = {n: "auto" if s == "never" else s for n, s in current.items()}
    allowed = stage.planned(free)
    if not allowed.fits:
        return "use more GPUs, a smaller maxTokensPerPack, or lora"
    made = asdict(allowed.savings)
    fields = [_FIELDS[name] for name, s in current.items() if s == "never" and made[name]]
    paths = [f"spec.stages.{stage.step.kind}.{field}" for field in fields]
    return f"{' and '.join(paths)}: never; give auto"


def _settings(stage: AnyStage) -> dict[str, Saving]:
    settings = {"recompute_policy": stage.gradient_checkpointing}
    if isinstance(stage, AlignStage):
        settings["recompute_discriminator"] = stage.discriminator.gradient_checkpointing
        settings["offload_optimizer"] = stage.offload_optimizer
    return settings


def _with(stage: AnyStage, settings: Mapping[str, Saving]) -> AnyStage:
    """The stage with other settings of its savings."""
    changed = stage.model_copy(update={"gradient_checkpointing": settings["recompute_policy"]})
    if not isinstance(changed, AlignStage):
        return changed
    recompute = {"gradient_checkpointing": settings["recompute_discriminator"]}
    opponent = changed.discriminator.model_copy(update=recompute)
    offload = settings["offload_optimizer"]
    return changed.model_copy(update={"discriminator": opponent, "offload_optimizer": offload})


def _wrapped(label: str, text: str) -> list[str]:
    first = f"  {label}".ljust(len(_INDENT))
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=_INDENT, break_on_hyphens=False
    )
