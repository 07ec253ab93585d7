"""How the test cluster's programs come about; a script stands in for Go, which takes minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cluster_binaries
from cluster_binaries import PROGRAMS, PYTORCHJOB_CRD, ClusterBinariesError, cluster_files

GO = f"""#!{sys.executable}
import json, os, pathlib, sys, time
folder = pathlib.Path(os.environ["FAKE_GO"])
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if "download" in sys.argv:
    print(json.dumps({{"Dir": str(folder / "module")}}))
    sys.exit()
target = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
target.write_text("half")
if os.environ.get("GO_FAILS") in sys.argv:
    sys.exit("go: go.mod requires go >= 1.24.0 (running go 1.22.0; GOTOOLCHAIN=local)")
time.sleep(0.1)
target.write_text("whole")
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the only programs there are, among them `go`, which writes down its `calls`."""
    folder = tmp_path / "go"
    crds = folder / "module" / "manifests" / "base" / "crds"
    crds.mkdir(parents=True)
    (crds / PYTORCHJOB_CRD).write_text("crd")
    (folder / "go").write_text(GO)
    (folder / "go").chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("FAKE_GO", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return folder


def calls(go: Path) -> list[str]:
    return (go / "calls").read_text().splitlines() if (go / "calls").exists() else []


def test_everything_is_built_once_from_the_pinned_modules(go: Path) -> None:
    files = cluster_files()
    assert {path.read_text() for path in files.programs.values()} == {"whole"}
    assert files.pytorchjob_crd.read_text() == "crd"
    built = calls(go)
    assert [call.split()[-1] for call in built[:-1]] == [one.package for one in PROGRAMS.values()]
    assert all("-mod=readonly -trimpath" in call for call in built[:-1])
    assert cluster_files() == files
    assert calls(go) == built


def test_ready_programs_are_taken_and_only_the_others_built(
    go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "assets"
    ready.mkdir()
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (ready / name).write_text("ready")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(ready))
    programs = cluster_files().programs
    assert {path.parent for name, path in programs.items() if "manager" not in name} == {ready}
    assert programs["kube-controller-manager"].read_text() == "whole"
    assert [call.split()[0] for call in calls(go)] == ["build", "mod"]


def test_sessions_that_start_together_build_each_program_once(go: Path) -> None:
    command = [sys.executable, cluster_binaries.__file__]
    sessions = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    for session in sessions:
        session.communicate()
    assert [session.returncode for session in sessions] == [0, 0, 0]
    assert len(calls(go)) == len(PROGRAMS) + 1


def test_a_failed_build_says_why_and_leaves_nothing_that_passes_for_a_program(
    go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GO_FAILS", PROGRAMS["kubectl"].package)
    with pytest.raises(ClusterBinariesError, match=r"1\.22\.0(.|\n)*Go 1\.24\.0 or newer"):
        cluster_files()
    monkeypatch.delenv("GO_FAILS")
    assert cluster_files().programs["kubectl"].read_text() == "whole"


def test_without_go_it_is_said_what_to_install(go: Path) -> None:
    (go / "go").unlink()
    done = subprocess.run(
        [sys.executable, cluster_binaries.__file__], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "there is no Go: " in done.stderr
    assert "Go 1.24.0 or newer" in done.stderr
    assert "KUBEBUILDER_ASSETS" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_pin_has_another_folder(
    go: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cluster_binaries.cache_folder("etcd")
    other = tmp_path / "modules" / "etcd"
    other.mkdir(parents=True)
    for name in ("go.mod", "go.sum"):
        (other / name).write_bytes((cluster_binaries.MODULES / "etcd" / name).read_bytes())
    monkeypatch.setattr(cluster_binaries, "MODULES", other.parent)
    assert cluster_binaries.cache_folder("etcd") == before
    (other / "go.sum").write_text("another")
    assert cluster_binaries.cache_folder("etcd") != before
    assert before.is_relative_to(os.environ["XDG_CACHE_HOME"])
