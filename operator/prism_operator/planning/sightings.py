"""What an executor on a cluster sees of a run's children, freed of the API's forms."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from prism_api.names import Role, StageKind
from prism_api.reporting import ProgressReport


@dataclass(frozen=True)
class PodSeen:
    """A pod of a stage, of a trainer or of a rollout server."""

    uid: str
    name: str
    role: Role
    kind: StageKind
    attempt: int
    """Of a trainer's pod; 0 for servers, which live through attempts."""
    index: int
    """Rank of a trainer's pod among its attempt's."""
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    exit_code: int | None = None
    termination_message: str = ""
    """What its container left."""
    reason: str = ""
    """Why its container ended, if not by itself: OOMKilled."""
    disruption: str = ""
    """Why the platform takes it away: eviction, preemption, node loss; empty if it does not."""
    blocker: str = ""
    """What keeps it from starting, in words; empty if nothing does."""
    is_deleting: bool = False
    address: str = ""
    job_uid: str = ""
    """UID of the PyTorchJob that it belongs to."""

    @property
    def is_over(self) -> bool:
        """Whether it holds no machine any more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class JobSeen:
    """A PyTorchJob: one attempt."""

    uid: str
    name: str
    kind: StageKind
    attempt: int
    is_queued: bool
    """Whether Kueue holds it back."""
    is_finished: bool
    """Whether it says Succeeded or Failed: the Training Operator is done with it."""
    is_deleting: bool = False
    message: str = ""
    """Of its newest condition, if that is a failure."""
    ended_pods: int = 0
    """That it has counted, whether they are still there or not."""


@dataclass(frozen=True)
class ServersSeen:
    """A stage's rollout servers."""

    uid: str
    name: str
    kind: StageKind
    ready: int
    is_deleting: bool = False
    blocker: str = ""
    """Why it cannot make pods, in words; empty if it can."""


@dataclass(frozen=True)
class ChildrenSeen:
    """All children of one run that have a state of their own."""

    jobs: tuple[JobSeen, ...] = ()
    pods: tuple[PodSeen, ...] = ()
    servers: tuple[ServersSeen, ...] = ()
    progress: ProgressReport | None = None
    """What rank 0 of the newest attempt said last."""
    unreached: str = ""
    """Where rank 0 of the newest attempt cannot be asked for its progress although it runs; empty
    if it can, or if that is not known."""
    trouble: str = ""
    """Why the executor could not do what was decided, or what else keeps an attempt from starting
    (missing queue, quota); empty if nothing does."""

    def job_of(self, kind: StageKind, attempt: int) -> JobSeen | None:
        """The PyTorchJob of an attempt."""
        return next((j for j in self.jobs if (j.kind, j.attempt) == (kind, attempt)), None)

    def gang(self, kind: StageKind, attempt: int) -> tuple[PodSeen, ...]:
        """Trainer pods of an attempt, by rank."""
        found = [p for p in self.pods if p.role == "trainer" and p.kind == kind]
        own = (p for p in found if p.attempt == attempt)
        return tuple(sorted(own, key=lambda p: (p.index, p.uid)))

    def servers_of(self, kind: StageKind) -> ServersSeen | None:
        """The rollout servers of a stage."""
        return next((s for s in self.servers if s.kind == kind), None)


@dataclass(frozen=True)
class Wanted:
    """What the user asks for beside the plan, as it stands now."""

    suspend: bool = False
    cancel: bool = False
    made_of: str = ""
    """Digest of the settings, images and templates that an attempt would be made of now; empty:
    not known."""


def names_of(pods: Iterable[PodSeen]) -> str:
    """Names of pods for people: the first ones, and how many more."""
    names = [pod.name for pod in pods]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
