"""What trainer, rollout server and whoever starts them agree on: names, documents, versions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from prism_api.base import Contract
from prism_api.checkpoint import CheckpointRef
from prism_api.errors import FieldProblem, SpecError
from prism_api.resources import Rollout, Workers

URLS_VARIABLE = "PRISM_ROLLOUT_URLS"
"""Environment: URLs of the stage's servers, separated by commas; the host of one may be a name that
has several addresses, each of a server of its own."""
TOKEN_VARIABLE = "PRISM_ROLLOUT_TOKEN"
"""Environment: the bearer token itself (from a Secret)."""
TOKEN_FILE_VARIABLE = "PRISM_ROLLOUT_TOKEN_FILE"
"""Environment: a file with the bearer token; goes before the token itself."""

ROLLOUT_CONTAINER = "vllm"
"""Name of the server's container in its pod."""
ROLLOUT_PORT = 8000
"""Where a server in a pod listens."""
HEALTH_PATH = "/health"

GPUS_VARIABLE = "CUDA_VISIBLE_DEVICES"
"""Environment: the GPUs that a process sees; without it all."""

SERVED_MODEL = "policy"
"""Name under which a server knows its model."""
WEIGHTS_PATH = "/prism/weights"
"""GET: ServerState. POST Weights: load them; answers ServerState once they are in use."""
IMAGES_PER_PROMPT = 16
"""What a server takes; the preflight refuses rows with more."""
PUBLISHED_FOLDER = "weights"
"""In a stage's folder of the store, beside its attempts: the version that servers are to have."""
OPEN_PATHS = frozenset({HEALTH_PATH, "/metrics"})
"""What may be read without the token."""
DIGEST_HEADER = "x-prism-weights"
"""A request that names a digest here is refused with 409 if the server has other weights; an answer
names those in use when it begins."""


@dataclass(frozen=True)
class UpdateDeadlines:
    """Seconds that a server gives each part of an update of its weights."""

    fetch: float = 1800.0
    pause: float = 60.0
    load: float = 600.0
    resume: float = 60.0

    @property
    def total(self) -> float:
        """Of an update that names the part that was too slow at the last moment."""
        return self.fetch + self.pause + self.load + self.resume


UPDATE_SECONDS = 2 * UpdateDeadlines().total + 60.0
"""How long the trainer waits for an update, which may have to wait for another one's end: the
server names the part that was too slow."""
REQUEST_SECONDS = 7200.0
"""How long the trainer waits for the responses to one prompt, however busy the server is."""
REQUEST_ATTEMPTS = 4
"""Times that one request is sent, on the same or another server."""
LONGEST_WAIT_SECONDS = UPDATE_SECONDS + REQUEST_ATTEMPTS * REQUEST_SECONDS
"""How long one process of a stage may wait for servers while its peers wait for it."""

OLDEST_VLLM, NEWEST_VLLM = (0, 26), (0, 32)
"""First and last minor version that rollouts were checked against."""


class Weights(Contract):
    """A version of the policy's weights in the store."""

    version: Annotated[int, Field(ge=0)]
    """Optimizer steps that the policy has taken in its stage."""
    checkpoint: CheckpointRef
    """Where they are. Two attempts of a stage may both make a version 7: the digest tells them
    apart."""


class ServerState(Contract):
    """What a rollout server says of itself."""

    vllm: str
    """Version of vLLM."""
    max_model_len: int | None
    """Tokens of prompt and response together."""
    weights: Weights | None
    """What it answers with; none: the model that it was started with, or an update that is not
    finished."""


def server_gpus(workers: Workers, rollout: Rollout) -> list[range]:
    """Numbers of each server's GPUs on a machine that holds a whole stage; pure.

    The trainer's processes have the first ones.
    """
    first, each = workers.replicas * workers.gpus_per_replica, rollout.gpus_per_replica
    return [range(first + i * each, first + (i + 1) * each) for i in range(rollout.replicas)]


def shown_gpus(names: str) -> list[str]:
    """The GPUs that a value of GPUS_VARIABLE names, in their order."""
    return [name.strip() for name in names.split(",") if name.strip()]


def read_token(environment: Mapping[str, str]) -> str:
    """The bearer token that the environment names; raises SpecError if there is none."""
    path = environment.get(TOKEN_FILE_VARIABLE)
    try:
        token = Path(path).read_text() if path else environment.get(TOKEN_VARIABLE, "")
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        remedy = "give a file with the token"
        raise SpecError([FieldProblem(TOKEN_FILE_VARIABLE, problem, remedy)]) from None
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        name = TOKEN_FILE_VARIABLE if path else TOKEN_VARIABLE
        problem = "holds no token" if not token else "holds more than visible ASCII characters"
        remedy = f"set {TOKEN_FILE_VARIABLE} or {TOKEN_VARIABLE}; nobody is served without a token"
        raise SpecError([FieldProblem(name, problem, remedy)])
    return token


def check_vllm(version: str, where: str) -> None:
    """Refuse a vLLM outside the tested range; raises SpecError naming `where` and its version."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    minor = tuple(int(number) for number in numbers.groups()) if numbers else ()
    if not OLDEST_VLLM <= minor <= NEWEST_VLLM:
        tested = "{}.{} to {}.{}".format(*OLDEST_VLLM, *NEWEST_VLLM)
        problem = f"runs vLLM {version}, tested is {tested}"
        raise SpecError([FieldProblem(where, problem, "install a version in this range")])
