"""Why a run stands where it stands, as one word for programs: reasons of conditions and events."""

from enum import StrEnum


class Reason(StrEnum):
    """Every reason that a decision can have."""

    TRAINING = "Training"
    STARTING = "Starting"
    QUEUED = "Queued"
    BLOCKED = "StartBlocked"
    BACKING_OFF = "BackingOff"
    DRAINING = "Draining"
    STOPPING = "Stopping"
    SUSPENDED = "Suspended"
    CANCELLED = "Cancelled"
    COMPLETED = "Completed"
    BAD_CONFIG = "BadConfig"
    BAD_DATA = "BadData"
    NON_FINITE = "NonFiniteLoss"
    STORE_FAILED = "StoreFailed"
    RESULT_CONTRADICTS = "ResultContradicts"
    RESTARTS_EXCEEDED = "RestartsExceeded"
    PREEMPTIONS_EXCEEDED = "PreemptionsExceeded"
    STAGE_DEADLINE_EXCEEDED = "StageDeadlineExceeded"
    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    UNREADABLE_STATUS = "UnreadableStatus"
