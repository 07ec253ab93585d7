"""What happens to the pods: a pure function from who a pod is to the part that it plays."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from prism_api.exit_codes import ExitCode


@dataclass(frozen=True)
class Trainer:
    """Who a trainer pod is."""

    run: str
    """Name of its PrismRun."""
    stage: str
    attempt: int
    index: int
    """Of the replica: rank 0 is 0."""
    incarnation: int
    """Pods that had its name in its job before it."""


@dataclass(frozen=True)
class Server:
    """Who a pod of a Deployment is."""

    run: str
    stage: str
    number: int
    """Pods that this Deployment had before it."""


@dataclass(frozen=True)
class Exit:
    """The container ends by itself."""

    code: int = ExitCode.DONE
    message: str | None = None
    """Termination message; by default a StageReport of rank 0 that is done, and nothing else."""
    reason: str | None = None
    """By default Completed or Error."""


OUT_OF_MEMORY = Exit(137, "", "OOMKilled")


@dataclass(frozen=True)
class Evicted:
    """Its machine is taken away. By the kubelet: it fails, and stays. By the scheduler or the
    eviction API: it is deleted, with its grace."""

    by: Literal["kubelet", "scheduler", "api"] = "scheduler"


@dataclass(frozen=True)
class Vanished:
    """Its node is lost: the pod object goes without any last word."""


@dataclass(frozen=True)
class CrashLoop:
    """The container ends by itself, again and again (restartPolicy Always)."""

    code: int = 1
    message: str = ""


@dataclass(frozen=True)
class Obstacle:
    """What keeps a pod from running."""

    reason: str
    """Unschedulable: no node for it. Anything else: why its container waits."""
    message: str
    lasts_s: float = math.inf
    """Then it goes on; before, when the player is told so (`Player.clear`)."""


@dataclass(frozen=True)
class Part:
    """A pod's life, in seconds."""

    schedule_s: float = 0.05
    """Until it has a node."""
    start_s: float = 0.05
    """From there until its containers run."""
    run_s: float = 0.2
    """From there until its ending."""
    ending: Exit | Evicted | Vanished | CrashLoop = Exit()
    obstacle: Obstacle | None = None
    ready: bool = True
    """Whether it becomes ready when it runs."""
    steps: int = 10
    """Iterations of rank 0, evenly over `run_s`."""
    hangs_at: int | None = None
    """Step after which nothing more happens, not even its ending."""
    progress: Literal["told", "not yet", "cut", "silent", "rubbish"] = "told"
    """What GET /progress finds: the newest step, status 503, a connection that is cut, nothing,
    nonsense."""
    stop_s: float = 0.05
    """From SIGTERM until it ends; beyond its grace it is killed."""
    stop: Exit = Exit(ExitCode.SAVED, "saved a checkpoint on request")
    """How it ends on SIGTERM."""


@dataclass(frozen=True)
class Script:
    """The parts of all pods; asked once for each pod."""

    trainer: Callable[[Trainer], Part]
    server: Callable[[Server], Part]


def all_well(phase_s: float = 0.05, run_s: float | None = None) -> Script:
    """Everything works: `phase_s` seconds for each phase of a pod, `run_s` for training (default:
    four phases); servers stay."""
    trainer = Part(phase_s, phase_s, 4 * phase_s if run_s is None else run_s, stop_s=phase_s)
    server = replace(trainer, run_s=math.inf)
    return Script(lambda _: trainer, lambda _: server)


IMAGE = Obstacle("ImagePullBackOff", 'Back-off pulling image "registry.example/none:1"')
SECRET = Obstacle("CreateContainerConfigError", 'secret "none" not found')
NO_NODE = Obstacle("Unschedulable", "0/8 nodes are available: 8 Insufficient nvidia.com/gpu.")


def bad_days(seed: int, phase_s: float = 0.05, share: float = 0.2) -> Script:
    """Of the first attempts of all stages, and of the first pods of all Deployments, `share` meet
    with something that a new attempt gets over; everything else works."""
    well = all_well(phase_s)

    def trainer(who: Trainer) -> Part:
        part = well.trainer(who)
        draw = random.Random(f"{seed}/{who.run}/{who.stage}/{who.attempt}")
        if who.attempt > 1 or who.incarnation or draw.random() >= share:
            return part
        changed = draw.choice(_bad(part, phase_s))
        return changed if who.index == 0 else part

    def server(who: Server) -> Part:
        part = well.server(who)
        draw = random.Random(f"{seed}/{who.run}/{who.stage}")
        if who.number or draw.random() >= share:
            return part
        return replace(part, obstacle=replace(draw.choice((IMAGE, NO_NODE)), lasts_s=4 * phase_s))

    return Script(trainer, server)


def _bad(part: Part, phase_s: float) -> tuple[Part, ...]:
    passing = (replace(obstacle, lasts_s=4 * phase_s) for obstacle in (IMAGE, SECRET, NO_NODE))
    endings = (Exit(ExitCode.CRASHED, "crashed"), OUT_OF_MEMORY, Exit(ExitCode.SAVED, "saved"))
    taken = (Evicted("kubelet"), Evicted("scheduler"), Evicted("api"), Vanished())
    return (
        *(replace(part, ending=ending) for ending in (*endings, *taken)),
        *(replace(part, obstacle=obstacle) for obstacle in passing),
    )
