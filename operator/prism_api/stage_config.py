"""StageConfig: the resolved file that a trainer reads. StageResult: what it reports when it is
done."""

import hashlib
import json
from typing import Annotated

from pydantic import Field

from prism_api.base import Contract
from prism_api.checkpoint import CheckpointRef, Sha256
from prism_api.names import StageKind
from prism_api.resources import (
    Evaluation,
    Fraction,
    ModelSource,
    Positive,
    Retention,
    Rollout,
    Workers,
)
from prism_api.run import AnyStage
from prism_api.stages import Stages

SCHEMA_VERSION = 1


class RunRef(Contract):
    """Which run a config or result belongs to."""

    namespace: str
    name: str
    uid: Annotated[str, Field(pattern=r"^[0-9a-f-]{8,64}$")]


class StageConfig(Contract):
    """Everything that one attempt of one stage needs; no field is left for the trainer to guess."""

    schema_version: Positive = SCHEMA_VERSION
    run: RunRef
    kind: StageKind
    attempt: Positive
    seed: Annotated[int, Field(ge=0)]
    model: ModelSource
    """The run's model: architecture and processor; the weights too where `init_from` is absent."""
    init_from: CheckpointRef | None
    """Result of the stage before."""
    stage_uri: str
    """Folder of this stage in the store; attempts lie below it."""
    stages: Stages
    """Only the member named by `kind` is set."""
    workers: Workers
    rollout: Rollout | None
    evaluation: Evaluation | None
    retention: Retention

    @property
    def stage(self) -> AnyStage:
        """The parameters of this stage."""
        stage: AnyStage = getattr(self.stages, self.kind)
        return stage

    @property
    def config_hash(self) -> str:
        """SHA-256 over what decides the result: all but attempt and retention."""
        document = self.model_dump(mode="json", by_alias=True, exclude={"attempt", "retention"})
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class EvaluationResult(Contract):
    """Greedy evaluation on the held-out rows."""

    samples: Positive
    correct: Annotated[int, Field(ge=0)]
    """Responses whose answer the verifier accepts."""
    accuracy: Fraction
    caption_accuracy: Fraction | None
    """Share of the reference captions' items that responses state at the same place; absent
    without references."""
    format_rate: Fraction
    """Share of responses with exactly the three blocks."""
    mean_response_tokens: Annotated[float, Field(ge=0)]


class StageResult(Contract):
    """Proof that a stage is done: a stage without a valid result has not succeeded (design,
    section 3)."""

    schema_version: Positive = SCHEMA_VERSION
    run: RunRef
    kind: StageKind
    attempt: Positive
    config_hash: Sha256
    steps: Positive
    seconds: Annotated[float, Field(ge=0)]
    """Wall time of the stage's training, interrupted attempts included up to their last
    checkpoint."""
    checkpoint: CheckpointRef
    evaluation: EvaluationResult | None
