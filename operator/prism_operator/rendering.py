"""A plan as text for `prism plan`: one block per step, then the settings that a trainer would
read."""

import json
from collections.abc import Iterator, Mapping

from prism_api.checkpoint import CheckpointRef
from prism_api.memory import GIB, MemoryPlan, plan_memory, trained_parameters
from prism_api.model_shape import ModelShape
from prism_api.stages import AlignStage
from prism_operator.documents import to_yaml
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.plan import Plan, ServeStep, TrainStep


def render_plan(plan: Plan, shapes: Mapping[str, ModelShape], *, as_json: bool) -> str:
    """The plan for people, or only the stage configs as JSON.

    `shapes` are the sizes of models by uri, as far as they are known.
    """
    if as_json:
        configs = [_config(step) for step in plan.train_steps]
        return json.dumps(configs, indent=2)
    return "\n".join(line for step in plan.steps for line in _step_lines(plan, step, shapes))


def _config(step: TrainStep) -> dict[str, object]:
    """A first attempt's config; where a stage starts from another one, that result is not known
    yet."""
    parent = CheckpointRef(uri=f"<result of {step.after}>", digest="0" * 64) if step.after else None
    return step.config(1, parent).model_dump(mode="json", by_alias=True)


def _step_lines(
    plan: Plan, step: ServeStep | TrainStep, shapes: Mapping[str, ModelShape]
) -> Iterator[str]:
    if isinstance(step, ServeStep):
        rollout = step.rollout
        servers = f"{rollout.replicas} x vllm, {step.gpus} GPUs in all"
        yield f"serve {step.kind}: {servers}, weights by {rollout.weight_update}"
        return
    source = f"the result of {step.after}" if step.after else step.model.uri
    workers = step.workers
    where = f"{step.gpus} GPUs" if step.gpus else "CPU"
    yield f"train {step.kind}: {attempt_name(plan.run, step.kind, 1)}"
    yield f"  from       {source}"
    yield f"  to         {step.stage_uri}"
    yield f"  processes  {workers.world_size} on {where}, {workers.engine}, {workers.precision}"
    yield from _memory_lines(step, shapes)
    if step.rollout is not None:
        yield f"  rollouts   {step.rollout.backend}"
    if step.evaluation is not None:
        yield f"  evaluation {step.evaluation.data.uri}"
    yield "  settings"
    settings = step.stage.model_dump(mode="json", by_alias=True, exclude={"workers", "rollout"})
    yield from ("    " + line for line in to_yaml(settings).splitlines())


def _memory_lines(step: TrainStep, shapes: Mapping[str, ModelShape]) -> Iterator[str]:
    """Parameters, and where there are GPUs, what each of them must hold."""
    policy = shapes.get(step.model.uri)
    opponent = step.discriminator_model
    dense = shapes.get(opponent.uri) if opponent else None
    if policy is None or (opponent and dense is None):
        missing = step.model.uri if policy is None or opponent is None else opponent.uri
        yield f"  parameters unknown: the config.json of {missing} is not on this machine"
        return
    yield "  parameters " + ", ".join(_parameters(step, policy, dense))
    if step.gpus:
        memory = step.workers.gpu_memory_gib * GIB
        needed = plan_memory(step.stage, step.workers, step.rollout, policy, dense, memory)
        yield from _needed_lines(needed)


def _parameters(step: TrainStep, policy: ModelShape, dense: ModelShape | None) -> Iterator[str]:
    trained = trained_parameters(step.stage, policy)
    yield f"policy {policy.parameters:,} ({trained:,} trained)"
    if dense is not None and isinstance(step.stage, AlignStage):
        settings = step.stage.discriminator
        upcycled = dense.upcycled(settings.num_experts, settings.experts_per_token)
        yield f"discriminator {upcycled.parameters:,}"


def _needed_lines(needed: MemoryPlan) -> Iterator[str]:
    phases = [f"{name} {size / GIB:.1f}" for name, size in needed.phases.items()]
    yield f"  memory     {', '.join(phases)} GiB of {needed.gpu_bytes / GIB:.0f} per GPU"
    yield f"  loading    {needed.loading_bytes / GIB:.1f} GiB of host memory per process"
    if needed.rollout_sequences is not None:
        yield f"  at once    {needed.rollout_sequences} sequences of the largest length"
    savings = needed.savings
    host = f"optimizer states on the host ({needed.host_bytes / GIB:.1f} GiB per process)"
    made = {
        "the policy's layers are recomputed": savings.recompute_policy,
        "the discriminator's layers are recomputed": savings.recompute_discriminator,
        host: savings.offload_optimizer,
    }
    yield f"  savings    {', '.join(name for name, on in made.items() if on) or 'none'}"
    if not needed.fits:
        remedy = "use more GPUs, a smaller maxTokensPerPack, or lora"
        yield f"  warning    does not fit: {remedy}"
