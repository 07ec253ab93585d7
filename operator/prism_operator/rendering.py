"""A plan as text for `prism plan`: one block per step, then the settings that a trainer would
read."""

import json
from collections.abc import Iterator

from prism_api.checkpoint import CheckpointRef
from prism_operator.documents import to_yaml
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.plan import Plan, ServeStep, TrainStep


def render_plan(plan: Plan, *, as_json: bool) -> str:
    """The plan for people, or only the stage configs as JSON."""
    if as_json:
        configs = [_config(step) for step in plan.train_steps]
        return json.dumps(configs, indent=2)
    return "\n".join(line for step in plan.steps for line in _step_lines(plan, step))


def _config(step: TrainStep) -> dict[str, object]:
    """A first attempt's config; where a stage starts from another one, that result is not known
    yet."""
    parent = CheckpointRef(uri=f"<result of {step.after}>", digest="0" * 64) if step.after else None
    return step.config(1, parent).model_dump(mode="json", by_alias=True)


def _step_lines(plan: Plan, step: ServeStep | TrainStep) -> Iterator[str]:
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
    if step.rollout is not None:
        yield f"  rollouts   {step.rollout.backend}"
    if step.evaluation is not None:
        yield f"  evaluation {step.evaluation.data.uri}"
    yield "  settings"
    settings = step.stage.model_dump(mode="json", by_alias=True, exclude={"workers", "rollout"})
    yield from ("    " + line for line in to_yaml(settings).splitlines())
