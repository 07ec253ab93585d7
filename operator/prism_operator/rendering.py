"""A plan as text for `prism plan`: what the whole run shares, then one block per step with the
settings that a trainer would read."""

import json
from collections.abc import Iterator, Mapping

from prism_api.base import Contract
from prism_api.checkpoint import CheckpointRef
from prism_api.model_shape import ModelShape
from prism_api.run import PrismRun
from prism_operator.documents import to_yaml
from prism_operator.memory_lines import memory_lines
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.plan import Plan, ServeStep, TrainStep


def render_plan(run: PrismRun, plan: Plan, shapes: Mapping[str, ModelShape]) -> str:
    """The plan of a run for people: every setting is in it, at one place.

    `shapes` are the sizes of models by uri, as far as they are known.
    """
    lines = [*_run_lines(run)]
    for step in plan.steps:
        lines += _serve_lines(step) if isinstance(step, ServeStep) else _train_lines(step, shapes)
    return "\n".join(lines)


def render_configs(plan: Plan) -> str:
    """Only the stage configs, as JSON."""
    return json.dumps([_config(step) for step in plan.train_steps], indent=2)


def _config(step: TrainStep) -> dict[str, object]:
    """A first attempt's config; where a stage starts from another one, that result is not known
    yet."""
    parent = CheckpointRef(uri=f"<result of {step.after}>", digest="0" * 64) if step.after else None
    return _document(step.config(1, parent))


def _run_lines(run: PrismRun) -> Iterator[str]:
    """What no step shows: stages, workers and rollout are resolved there."""
    yield f"run {run.metadata.name}: namespace {run.metadata.namespace}"
    yield from _settings_lines(_document(run.spec, "stages", "workers", "rollout"))


def _serve_lines(step: ServeStep) -> Iterator[str]:
    rollout = step.rollout
    servers = f"{rollout.replicas} x vllm, {step.gpus} GPUs in all"
    yield f"serve {step.kind}: {servers}, weights by {rollout.weight_update}"


def _train_lines(step: TrainStep, shapes: Mapping[str, ModelShape]) -> Iterator[str]:
    source = f"the result of {step.after}" if step.after else step.model.uri
    workers = step.workers
    where = f"{step.gpus} GPUs" if step.gpus else "CPU"
    yield f"train {step.kind}: {attempt_name(step.run, step.kind, 1)}"
    yield f"  from       {source}"
    yield f"  to         {step.stage_uri}"
    yield f"  keeps      checkpoints: the newest {step.retention.keep_last}"
    yield f"  processes  {workers.world_size} on {where}, {workers.engine}, {workers.precision}"
    yield from memory_lines(step, shapes)
    settings = _document(step.stage, "workers", "rollout")
    settings["workers"] = _document(workers)
    if step.rollout is not None:
        settings["rollout"] = _document(step.rollout)
    yield from _settings_lines(settings)


def _document(model: Contract, *without: str) -> dict[str, object]:
    return model.model_dump(mode="json", by_alias=True, exclude=set(without))


def _settings_lines(settings: dict[str, object]) -> Iterator[str]:
    yield "  settings"
    yield from ("    " + line for line in to_yaml(settings).splitlines())
