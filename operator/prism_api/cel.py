"""The contract's cross-field rules as the API server evaluates them (`x-kubernetes-validations`).

Each row says in CEL what a `CrossFieldError` of the same model says in Python. A null is no value
in either: `self.?a.hasValue()` is false for an `a` that is absent or null.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from prism_api.base import Contract
from prism_api.names import STAGE_ORDER, StageKind
from prism_api.optimization import Optimization
from prism_api.problems import model_in
from prism_api.reinforcement import RolloutCorrection
from prism_api.resources import FailurePolicy, Workers
from prism_api.run import Spec
from prism_api.stages import AlignStage, Discriminator, RlvrStage, SftStage, Stages


@dataclass(frozen=True)
class Rule:
    """One condition on the fields of a model."""

    member: str
    """Path below the model, as in CrossFieldError: the field that is blamed; empty: the model."""
    holds: str
    """CEL; `{a.b}` stands for the value of `self.a.b`, or for its default where it is absent."""
    message: str
    """What is wrong; what would be right."""


def rules_of(model: type[BaseModel]) -> Iterator[dict[str, str]]:
    """The entries of a model's `x-kubernetes-validations`."""
    for owner, rules in _RULES.items():
        for rule in rules if issubclass(model, owner) else ():
            yield _validation(rule, model)


def _validation(rule: Rule, model: type[BaseModel]) -> dict[str, str]:
    holds = re.sub(r"\{([\w.]+)\}", lambda found: _value(model, found[1]), rule.holds)
    place = {"fieldPath": f".{rule.member}"} if rule.member else {}
    return {"rule": holds, "message": rule.message, **place}


def _value(model: type[BaseModel], path: str) -> str:
    default = json.dumps(_default(model, path.split(".")))
    return f"self.?{path.replace('.', '.?')}.orValue({default})"


def _default(model: type[BaseModel], path: list[str]) -> Any:
    field = next(f for f in model.model_fields.values() if f.alias == path[0])
    member = model_in(field.annotation)
    return _default(member, path[1:]) if member else field.default


def _processes(kind: StageKind) -> str:
    """CEL of the number of trainer processes of a stage, on Spec."""
    of_stage, of_run = (
        f"{{{owner}.replicas}} * [1, {{{owner}.gpusPerReplica}}].max()"
        for owner in (f"stages.{kind}.workers", "workers")
    )
    return f"(self.?stages.?{kind}.?workers.hasValue() ? {of_stage} : {of_run})"


def _shared(kind: StageKind, member: str, also: str = "") -> Rule:
    """That a number of samples can be divided among a stage's processes."""
    size, parts = f"{{stages.{kind}.{member}}}", _processes(kind)
    if kind == "rlvr":
        parts = f"({parts} * {{stages.rlvr.miniBatches}})"
    shares = "replicas x gpusPerReplica" + (" x miniBatches" if kind == "rlvr" else "")
    return Rule(
        f"stages.{kind}.{member}",
        f"!self.?stages.?{kind}.hasValue(){also} || {size} % {parts} == 0",
        f"cannot be shared equally by the trainer processes; give a multiple of {shares}",
    )


def _sampled(kind: StageKind) -> Rule:
    return Rule(
        "rollout",
        f"!self.?stages.?{kind}.hasValue() || self.?rollout.hasValue()"
        f" || self.?stages.?{kind}.?rollout.hasValue()",
        f"is missing but stage {kind} samples responses; add rollout: {{backend: vllm}} or "
        "rollout: {backend: inprocess}",
    )


_SUPERVISED = " || {stages.align.objective} == 'supervised'"

_RULES: Mapping[type[Contract], tuple[Rule, ...]] = {
    Optimization: (
        Rule(
            "warmupRatio",
            "!(self.?warmupRatio.hasValue() && self.?warmupSteps.hasValue())",
            "is given together with warmupSteps; give one of the two",
        ),
    ),
    Workers: (
        Rule(
            "precision",
            "{precision} != 'bf16' || {gpusPerReplica} > 0",
            "bf16 is computed on GPUs only and gpusPerReplica is 0; give auto or fp32, or ask for "
            "GPUs",
        ),
    ),
    FailurePolicy: (
        Rule(
            "stageDeadlineSeconds",
            "!self.?stageDeadlineSeconds.hasValue()"
            " || self.stageDeadlineSeconds > {startDeadlineSeconds}",
            "is not longer than startDeadlineSeconds; a stage has to start before it can end; give "
            "more",
        ),
    ),
    RolloutCorrection: (
        Rule("minWeight", "{minWeight} < {maxWeight}", "is not below maxWeight; give less"),
    ),
    SftStage: (
        Rule(
            "steps",
            "!(self.?epochs.hasValue() && self.?steps.hasValue())",
            "is given together with epochs; give one of the two",
        ),
    ),
    Discriminator: (
        Rule(
            "numExperts",
            "{routing} != 'segment' || {numExperts} % 2 == 0",
            "cannot be halved for segment routing; give an even number",
        ),
        Rule(
            "expertsPerToken",
            "{expertsPerToken} <= {numExperts} / ({routing} == 'segment' ? 2 : 1)",
            "are more experts than a token can choose from; give at most numExperts, of which "
            "segment routing offers half",
        ),
    ),
    AlignStage: (
        Rule(
            "gating",
            "!self.?gating.hasValue() || {objective} != 'supervised'",
            "has no meaning with objective supervised, which samples no answers; remove it, or set "
            "objective: adversarial",
        ),
        Rule(
            "captionWeight",
            "{captionWeight} > 0.0 || {reasoningWeight} > 0.0",
            "captionWeight and reasoningWeight are both 0; give at least one of them a weight",
        ),
    ),
    RlvrStage: (
        Rule(
            "miniBatches",
            "{batchSize} % {miniBatches} == 0",
            "does not divide batchSize; give a divisor of batchSize",
        ),
        Rule(
            "dualClip",
            "{algorithm} != 'cispo' || self.?dualClip.orValue(0.0) == 0.0",
            "has no meaning for cispo, which clips weights, not losses; remove it",
        ),
        Rule(
            "generationBatchSize",
            "!self.?generationBatchSize.hasValue()"
            " || self.?dynamicSampling.orValue({algorithm} == 'dapo')",
            "has no meaning without dynamic sampling; remove it, or set dynamicSampling: true",
        ),
        Rule(
            "overlong",
            "!self.?overlong.hasValue() || {overlong.bufferTokens} <= {maxResponseTokens}",
            "bufferTokens exceeds maxResponseTokens; give at most as many",
        ),
    ),
    Stages: (
        Rule(
            "",
            " || ".join(f"self.?{kind}.hasValue()" for kind in STAGE_ORDER),
            "has no stage; give at least one of sft, align, rlvr",
        ),
    ),
    Spec: (
        Rule(
            "systemMessage",
            "!(self.?systemMessage.hasValue() && self.systemMessage.contains('<image>'))",
            "holds <image>, the mark of a row's image; remove it",
        ),
        *(_sampled(kind) for kind in STAGE_ORDER if kind != "sft"),
        *(_shared(kind, "batchSize") for kind in STAGE_ORDER),
        _shared("align", "discriminator.warmup.batchSize", _SUPERVISED),
    ),
}
