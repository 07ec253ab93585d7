"""What the test cluster consists of, built once from pinned Go modules (`make cluster-binaries`).

What they are built from is in tests/cluster/go, a module per program family; what is built lies in
a cache folder per module, named by all that decides its content. A folder with ready programs is
used instead where KUBEBUILDER_ASSETS names one.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = Path(__file__).parents[1] / "cluster" / "go"
GO_FLAGS = (
    "-mod=readonly",
    "-trimpath",
    "-ldflags=-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4",
)
"""The version is said at link time: clients of an unversioned build would see v0.0.0."""
TRAINING_OPERATOR = "github.com/kubeflow/training-operator"
PYTORCHJOB_CRD = "kubeflow.org_pytorchjobs.yaml"


@dataclass(frozen=True)
class Program:
    """A program: the folder of MODULES that pins it and the Go package it is built from."""

    module: str
    package: str


PROGRAMS = {
    "etcd": Program("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Program("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": Program(
        "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"
    ),
    "kubectl": Program("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
}


@dataclass(frozen=True)
class ClusterFiles:
    """Where each program of PROGRAMS and the PyTorchJob CRD are."""

    programs: dict[str, Path]
    pytorchjob_crd: Path


class ClusterBinariesError(Exception):
    """The cluster's programs are missing and cannot be built; the message says what to do."""


def cluster_files(say: Callable[[str], None] = lambda line: None) -> ClusterFiles:
    """All that a cluster consists of; what is missing is built first, which takes minutes.

    Raises ClusterBinariesError when something is missing and Go is absent, too old or fails.
    """
    programs = {name: _ready_made(name) or _built(name, say) for name in PROGRAMS}
    return ClusterFiles(programs, _pytorchjob_crd(say))


def cache_folder(module: str) -> Path:
    """Where the results of a module of MODULES belong; another content has another folder."""
    inputs = [(MODULES / module / name).read_bytes() for name in ("go.mod", "go.sum")]
    inputs.append("\0".join([*GO_FLAGS, platform.system(), platform.machine()]).encode())
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in inputs))
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "prism" / "cluster" / f"{module}-{digest.hexdigest()[:16]}"


def _ready_made(name: str) -> Path | None:
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(folder, name) if folder else None
    return path if path and path.is_file() else None


def _built(name: str, say: Callable[[str], None]) -> Path:
    program = PROGRAMS[name]

    def build(path: Path) -> None:
        say(f"building {name} from {program.package}")
        started = time.monotonic()
        _go(program.module, "build", *GO_FLAGS, "-o", str(path), program.package)
        say(f"built {name} in {time.monotonic() - started:.0f} s")

    return _made_once(cache_folder(program.module) / name, build)


def _pytorchjob_crd(say: Callable[[str], None]) -> Path:
    def copy(path: Path) -> None:
        say(f"fetching {PYTORCHJOB_CRD} from {TRAINING_OPERATOR}")
        module = json.loads(_go("training-operator", "mod", "download", "-json", TRAINING_OPERATOR))
        shutil.copyfile(Path(module["Dir"], "manifests", "base", "crds", PYTORCHJOB_CRD), path)

    return _made_once(cache_folder("training-operator") / PYTORCHJOB_CRD, copy)


def _made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file, made under another name first: a file that is there is whole."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent / ".lock"):
        if not path.exists():
            new = path.parent / ".new"
            shutil.rmtree(new, ignore_errors=True)  # what a killed build has left
            new.mkdir()
            make(new / path.name)
            (new / path.name).rename(path)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go(module: str, *arguments: str) -> str:
    folder = MODULES / module
    try:
        done = subprocess.run(
            ["go", *arguments],
            cwd=folder,
            env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise ClusterBinariesError(f"there is no Go: {_remedy(folder)}") from None
    if done.returncode:
        command = f"`go {' '.join(arguments)}` in tests/cluster/go/{module}"
        raise ClusterBinariesError(f"{command} failed:\n{done.stderr.strip()}\n{_remedy(folder)}")
    return done.stdout


def _remedy(module: Path) -> str:
    lines = (module / "go.mod").read_text().splitlines()
    version = next(line for line in lines if line.startswith("go ")).removeprefix("go ")
    return (
        f"the test cluster is built with Go {version} or newer, once: install it. (A folder named "
        f"by KUBEBUILDER_ASSETS may hold ready {', '.join(PROGRAMS)}; a CRD still comes by Go.)"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Build what is missing and say where everything is."""
    try:
        files = cluster_files(_say)
    except ClusterBinariesError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path in (*files.programs.values(), files.pytorchjob_crd):
        _say(str(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
