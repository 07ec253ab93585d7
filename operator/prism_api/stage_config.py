"""StageConfig: the resolved file that a trainer reads. StageResult: what it reports when it is
done."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from prism_api.base import Contract, CrossFieldError
from prism_api.checkpoint import CheckpointRef, Sha256
from prism_api.names import STAGE_ORDER, StageKind
from prism_api.patterns import UID
from prism_api.resources import (
    Evaluation,
    Fraction,
    ModelSource,
    Positive,
    ResolvedWorkers,
    Retention,
    Rollout,
)
from prism_api.run import AnyStage
from prism_api.stages import Stages


class RunRef(Contract):
    """Which run a config or result belongs to."""

    namespace: str
    """Of the PrismRun."""
    name: str
    """Of the PrismRun."""
    uid: Annotated[str, Field(pattern=UID)]
    """Never used twice, unlike a name."""


_NO_MATTER: Any = {
    "run": True,
    "attempt": True,
    "stage_uri": True,
    "retention": True,
    "init_from": {"uri"},
    "workers": {"gpu_memory_gib", "template"},
    "rollout": {"template"},
    # A stage's own workers and rollout stand resolved beside the stages.
    "stages": {kind: {"checkpoint_every_steps", "workers", "rollout"} for kind in STAGE_ORDER},
}
"""What a stage's result does not depend on; as pydantic's `exclude`."""


class StageConfig(Contract):
    """Everything that one attempt of one stage needs; no field is left for the trainer to guess."""

    schema_version: Literal[1] = 1
    """Layout of this document."""
    run: RunRef
    """Run that the stage belongs to."""
    kind: StageKind
    """Which stage."""
    attempt: Positive
    """Which attempt of the stage; the first is 1."""
    seed: Annotated[int, Field(ge=0)]
    """Everything random derives from it."""
    model: ModelSource
    """The run's model: architecture and processor; the weights too where `init_from` is absent."""
    system_message: str | None = None
    """System turn of prompts that have none."""
    init_from: CheckpointRef | None
    """Result of the stage before."""
    stage_uri: str
    """Folder of this stage in the store; attempts lie below it."""
    stages: Stages
    """Only the member named by `kind` is set."""
    workers: ResolvedWorkers
    """Trainer processes."""
    rollout: Rollout | None
    """Who samples responses; none in SFT."""
    evaluation: Evaluation | None
    """Accuracy when the stage is done."""
    retention: Retention
    """Checkpoints kept."""

    @model_validator(mode="after")
    def _stage_is_there(self) -> "StageConfig":
        if getattr(self.stages, self.kind) is None:
            raise CrossFieldError(f"stages.{self.kind}", "is missing", "give what `kind` names")
        return self

    @property
    def stage(self) -> AnyStage:
        """The parameters of this stage."""
        stage: AnyStage = getattr(self.stages, self.kind)
        return stage

    @property
    def config_hash(self) -> str:
        """SHA-256 over what decides the result.

        Left out: whose run it is, which attempt, where its checkpoints and its parent lie (the
        parent's digest says what it is), how often they are made and how many are kept. The number
        of threads counts, as does all that changes the order of floating-point sums.
        """
        document = self.model_dump(mode="json", by_alias=True, exclude=_NO_MATTER)
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class EvaluationResult(Contract):
    """Greedy evaluation on the held-out rows."""

    samples: Positive
    """Questions asked."""
    correct: Annotated[int, Field(ge=0)]
    """Responses whose answer the verifier accepts."""
    accuracy: Fraction
    """Share of right answers."""
    caption_accuracy: Fraction | None = None
    """Share of the reference captions' items that responses state at the same place; absent
    without references."""
    format_rate: Fraction
    """Share of responses with exactly the three blocks."""
    mean_response_tokens: Annotated[float, Field(ge=0)]
    """Mean length of the responses."""
    too_long: Annotated[int, Field(ge=0)] = 0
    """Questions beyond the stage's maxPromptTokens, which were not asked."""


class StageResult(Contract):
    """Proof that a stage is done: a stage without a valid result has not succeeded (design,
    section 3)."""

    schema_version: Literal[1] = 1
    """Layout of this document."""
    run: RunRef
    """Run that the stage belongs to."""
    kind: StageKind
    """Which stage."""
    attempt: Positive
    """Attempt that finished it."""
    config_hash: Sha256
    """Of its StageConfig: what it was made of."""
    steps: Positive
    """Optimizer steps that the policy has taken in this stage, in rlvr miniBatches per batch of
    rollouts; those of the discriminator do not count."""
    seconds: Annotated[float, Field(ge=0)]
    """Wall time of the stage's training, interrupted attempts included up to their last
    checkpoint."""
    checkpoint: CheckpointRef
    """The last one: what the next stage starts from."""
    evaluation: EvaluationResult | None = None
    """Absent if none was asked for."""
