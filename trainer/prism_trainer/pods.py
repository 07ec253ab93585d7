"""The pods of a stage in a cluster: each has a launcher, a torchrun and a disk of its own."""

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prism_api.errors import FieldProblem, RendezvousError, SpecError
from prism_api.names import NODE_RANK_VARIABLE, NODES_VARIABLE, RENDEZVOUS_VARIABLE
from prism_api.resources import Workers

PATIENCE_SECONDS = 1800
"""For pods that start late; as long as failurePolicy.startDeadlineSeconds, which comes first."""
_BETWEEN_LOOKUPS_SECONDS = 0.5


@dataclass(frozen=True)
class Address:
    """Where the pods meet: at the first one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Pod:
    """One launcher's part of a stage."""

    processes: int
    """That it runs."""
    rank: int = 0
    count: int = 1
    meeting: Address | None = None
    """None: it is alone, and stands for all replicas."""

    @property
    def ranks(self) -> range:
        """Of its processes, among those of all pods."""
        return range(self.rank * self.processes, (self.rank + 1) * self.processes)

    @property
    def is_first(self) -> bool:
        """Whether the process that reports for the stage is its own."""
        return self.rank == 0

    def torchrun_options(self) -> list[str]:
        """How its torchrun meets the others.

        The static rendezvous: pod n has the ranks of its number, nobody joins later, and a process
        that ends is never replaced, for attempts are made anew as a whole.
        """
        if self.meeting is None:
            return ["--standalone", f"--nproc-per-node={self.processes}"]
        return [
            f"--nnodes={self.count}",
            f"--node-rank={self.rank}",
            f"--nproc-per-node={self.processes}",
            "--rdzv-backend=static",
            f"--rdzv-conf=timeout={PATIENCE_SECONDS}",
            f"--master-addr={self.meeting.host}",
            f"--master-port={self.meeting.port}",
            "--max-restarts=0",
        ]


def this_pod(workers: Workers, environment: Mapping[str, str]) -> Pod:
    """The launcher's part of the stage; without word of pods all of it.

    Raises SpecError naming the variable that does not fit.
    """
    if NODES_VARIABLE not in environment:
        return Pod(workers.world_size)
    count = _number(environment, NODES_VARIABLE, 1, workers.replicas)
    if count != workers.replicas:
        problem = f"is {count}, but workers.replicas is {workers.replicas}"
        raise SpecError([FieldProblem(NODES_VARIABLE, problem, "start a launcher per replica")])
    rank = _number(environment, NODE_RANK_VARIABLE, 0, count - 1)
    meeting = _address(environment.get(RENDEZVOUS_VARIABLE, "")) if count > 1 else None
    return Pod(workers.processes_per_replica, rank, count, meeting)


def await_name(
    host: str, is_stopped: Callable[[], bool], patience_seconds: float = PATIENCE_SECONDS
) -> None:
    """Return when the name resolves, as that of a pod does once it runs, or on a stop; raises
    RendezvousError after `patience_seconds`."""
    deadline = time.monotonic() + patience_seconds
    while not is_stopped():
        try:
            socket.getaddrinfo(host, None)
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise RendezvousError(
                    f"{host}: the name of the stage's first pod did not resolve within "
                    f"{patience_seconds:g} s ({error.strerror}); see whether that pod runs and its "
                    "headless Service exists"
                ) from None
        time.sleep(_BETWEEN_LOOKUPS_SECONDS)


def never_met(meeting: Address) -> str:
    """What to say when torchrun ended before any process of this pod had started."""
    return (
        f"the pods of this attempt did not meet at {meeting} within {PATIENCE_SECONDS} s, or one "
        "of them ended before; see the other pods' messages"
    )


def _number(environment: Mapping[str, str], name: str, least: int, most: int) -> int:
    text = environment.get(name, "")
    if not re.fullmatch("[0-9]{1,6}", text) or not least <= int(text) <= most:
        problem = f'is "{text}"' if text else "is not set"
        raise SpecError([FieldProblem(name, problem, f"give a number from {least} to {most}")])
    return int(text)


def _address(text: str) -> Address:
    match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]{0,252}):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[2]) < 1 << 16:
        problem = f'is "{text}"' if text else "is not set"
        remedy = "give HOST:PORT of the stage's first pod"
        raise SpecError([FieldProblem(RENDEZVOUS_VARIABLE, problem, remedy)])
    return Address(match[1], int(match[2]))
