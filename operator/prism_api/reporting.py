"""What a trainer pod tells the operator: progress while it runs, its stage's result at the end."""

from typing import Annotated

from pydantic import Field

from prism_api.base import Contract
from prism_api.checkpoint import Sha256
from prism_api.names import StageKind
from prism_api.stage_config import StageResult

TRAINER_CONTAINER = "pytorch"
"""Name of the trainer's container; the Training Operator asks for this one."""
TERMINATION_FILE_VARIABLE = "PRISM_TERMINATION_FILE"
"""Environment: file whose content becomes the container's termination message. Rank 0 of a stage
that is done leaves its StageReport there, everyone else a sentence that says why they ended."""
TERMINATION_FILE = "/dev/termination-log"
MAX_TERMINATION_BYTES = 4096
"""The kubelet cuts what is longer."""

TRAINER_PORT = 8080
TRAINER_PORT_VARIABLE = "PRISM_TRAINER_PORT"
"""Environment: where rank 0's launcher answers GET /progress with a ProgressReport and GET /metrics
for Prometheus; without it nothing is served."""
PROGRESS_PATH = "/progress"
METRICS_PATH = "/metrics"


class StageReport(Contract):
    """The proof that a stage is done, as rank 0 leaves it in its termination message."""

    uri: str
    """The StageResult in the store."""
    digest: Sha256
    """SHA-256 of that object."""
    result: StageResult
    """Its content: the operator has no credentials to read it from the store."""


class ProgressReport(Contract):
    """The newest iteration of a stage, as rank 0 tells it."""

    stage: StageKind
    """Which stage."""
    attempt: int
    """Which attempt: what an old pod at a reused address says is not taken."""
    uid: str
    """UID of the run."""
    phase: Annotated[str, Field(max_length=64)]
    """Part of the stage: train, warmup, game."""
    step: Annotated[int, Field(ge=0)]
    """Iterations of the phase that are done."""
    steps: Annotated[int, Field(ge=0)]
    """Iterations of the phase."""
    eta_seconds: float | None = None
    """Until the stage is done."""
    metrics: dict[str, float] = Field(default_factory=dict, max_length=256)
    """Of the newest iteration."""
