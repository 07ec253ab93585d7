"""PrismRunStatus: what the operator says of a run, and all that it remembers of it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from prism_api.base import Contract
from prism_api.names import StageKind
from prism_api.reporting import StageReport

Count = Annotated[int, Field(ge=0)]


class State(StrEnum):
    """Where a stage, or a run, stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    BLOCKED = "Blocked"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    SUCCEEDED = "Succeeded"


SETTLED = frozenset(
    {State.SUSPENDED, State.BLOCKED, State.FAILED, State.CANCELLED, State.SUCCEEDED}
)
"""States in which nothing runs and nothing is about to."""
FINISHED = frozenset({State.FAILED, State.CANCELLED, State.SUCCEEDED})
"""States in which a run is over, unless its user changes what ended it."""

ConditionType = Literal["Accepted", "Running", "Suspended", "Succeeded", "Failed"]


class Condition(Contract):
    """One question about the run and its answer, as Kubernetes has them."""

    type: ConditionType
    """Question."""
    status: Literal["True", "False", "Unknown"]
    """Answer."""
    reason: str
    """Why, as one word for programs."""
    message: str = ""
    """Why, and what to do, for people."""
    last_transition_time: datetime
    """When the answer changed."""
    observed_generation: Count = 0
    """Generation of the spec that it is about."""


class AttemptStatus(Contract):
    """The newest attempt of a stage."""

    number: Annotated[int, Field(ge=1)]
    """The first is 1."""
    started_at: datetime
    """When the operator decided to start it."""
    admitted_at: datetime | None = None
    """When it left the queue for the last time; without a queue, when it started."""
    trainer_started_at: datetime | None = None
    """When all its trainer pods had got to run. Before that nothing has trained: a PyTorchJob that
    is deleted by hand is made again."""
    job_uid: str | None = None
    """UID of its PyTorchJob then; what has another one is not this attempt."""
    gang: str | None = None
    """Digest of the UIDs of its trainer pods then: a pod that is replaced ends the attempt."""
    stepped_at: datetime | None = None
    """When its first step was seen, or when rank 0 turned out not to be reachable for that."""
    stopping: str = ""
    """Why it was asked to save itself and end; empty if it was not."""
    stopped_by: Literal["user", "deadline"] | None = None
    """Who asked for that."""
    made_of: str = ""
    """Digest of the settings, images and templates that it was made of."""
    outcome: Literal["ended", "preempted", "interrupted"] | None = None
    """How it ended; absent while it runs. `ended`: by itself. `preempted`: its machines or children
    were taken away. `interrupted`: it was asked to stop, and has."""
    exit_code: int | None = None
    """Of an attempt that ended by itself."""
    ended_at: datetime | None = None
    """When it ended; before that, when the first of its pods did."""
    message: str = ""
    """What it said, or what keeps it from starting."""


class Restarts(Contract):
    """Attempts of a stage that are over, by cause, the newest attempt not counted."""

    faults: Count = 0
    """Failed by themselves: bounded by failurePolicy.maxRestarts."""
    preemptions: Count = 0
    """Lost their machines: bounded by failurePolicy.maxPreemptions."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Running time of all of them."""


class GpuSeconds(Contract):
    """GPU time of a stage, trainers and rollout servers together."""

    allocated: Annotated[float, Field(ge=0)] = 0.0
    """Held by its attempts."""
    productive: Annotated[float, Field(ge=0)] = 0.0
    """Of these, after the first step of each attempt."""


class StageStatus(Contract):
    """One stage of a run."""

    state: State = State.PENDING
    """Where it stands."""
    attempt: AttemptStatus | None = None
    """Its newest attempt."""
    restarts: Restarts = Restarts()
    """The attempts before."""
    phase: str = ""
    """Part of the stage: train, warmup, game."""
    step: Count = 0
    """Iterations of the phase that are done."""
    steps: Count = 0
    """Iterations of the phase."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Newest values: loss, reward, accuracy."""
    gpu_seconds: GpuSeconds = GpuSeconds()
    """GPU time."""
    started_at: datetime | None = None
    """First attempt."""
    ended_at: datetime | None = None
    """When its result was recorded, or when it was given up."""
    result: StageReport | None = None
    """The proof that it is done: checkpoint with digest, evaluation."""
    message: str = ""
    """What is going on, or what to do."""


class PrismRunStatus(Contract):
    """What the operator says of a run; written by the operator only."""

    observed_generation: Count = 0
    """Generation of the spec that this is about."""
    conditions: tuple[Condition, ...] = ()
    """Accepted, Running, Suspended, Succeeded, Failed."""
    state: State = State.PENDING
    """Where the run stands."""
    message: str = ""
    """What is going on, or what to do."""
    current_stage: StageKind | None = None
    """Stage that is worked on, or that was the last one."""
    step: str = ""
    """Of the current stage: done/all."""
    reward: float | None = None
    """Newest mean reward of the current stage."""
    accuracy: float | None = None
    """Newest measured accuracy on held-out rows."""
    restarts: Count = 0
    """New attempts of all stages, whatever the cause."""
    start_time: datetime | None = None
    """First training step: from then on most of the spec cannot be changed."""
    completion_time: datetime | None = None
    """When the run succeeded or failed."""
    stages: dict[StageKind, StageStatus] = Field(default_factory=dict)
    """By stage."""
