"""What servers of an attempt have of the machine: ports, GPUs, disk, a token, arguments."""

import socket
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_api.base import parse_json
from prism_api.errors import SpecError
from prism_api.resources import (
    DataSource,
    Evaluation,
    ModelSource,
    ResolvedWorkers,
    Rollout,
    Workers,
)
from prism_api.rollout import server_gpus
from prism_api.stage_config import StageConfig
from prism_operator.local.servers import (
    gpu_choice,
    new_token,
    port_of,
    reserved_port,
    server_arguments,
)
from prism_store.store import open_store
from served_attempts import PATIENCE_SECONDS, Workplace, a_config, wait_until


def test_a_reserved_port_is_given_to_nobody_but_the_server_that_names_it() -> None:
    """Even if that binds it much later, and as vLLM does, so that two could share it."""
    with reserved_port() as holder:
        others = [reserved_port() for _ in range(2000)]
        assert port_of(holder) not in {port_of(other) for other in others}
        for other in others:
            other.close()
        with socket.socket() as listener, socket.socket() as stranger:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                listener.setsockopt(socket.SOL_SOCKET, option, 1)
            listener.bind(("127.0.0.1", port_of(holder)))
            listener.listen()
            with socket.create_connection(("127.0.0.1", port_of(holder)), timeout=5):
                listener.accept()[0].close()
            with pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port_of(holder)))


def test_an_attempt_holds_its_servers_port_before_they_listen(place: Workplace) -> None:
    with place.start("print('trained')", stub="time.sleep(60)") as process:
        wait_until(lambda: bool(psutil.Process(process.pid).children()))
        (server,) = psutil.Process(process.pid).children()
        wait_until(lambda: "--model" in " ".join(server.cmdline()))
        (port,) = (a.partition("=")[2] for a in server.cmdline() if a.startswith("--port="))
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", int(port)))
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 75


def fetched_by(attempt: Path) -> Path:
    """What a server leaves when it is killed."""
    weights = attempt / "rollout-0/weights/v1-abc/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("gigabytes")
    (attempt / "rollout-0/log.txt").write_text("what happened")
    return weights


@pytest.mark.parametrize("code", [0, 1, 75])
def test_of_servers_that_have_ended_only_the_logs_stay_on_disk(place: Workplace, code: int) -> None:
    earlier = fetched_by(place.folder.parent / "a1")
    now = place.folder / "rollout-0/weights/v2-def"
    program = f"import pathlib; assert not pathlib.Path({str(earlier)!r}).exists(); "
    program += f"pathlib.Path({str(now)!r}).mkdir(parents=True); raise SystemExit({code})"
    ended = place.run(program)
    assert ended.code == code, ended.errors
    assert (place.folder.parent / "a1/rollout-0/log.txt").read_text() == "what happened"
    assert [path.name for path in (place.folder / "rollout-0").iterdir()] == ["log.txt"]


@pytest.mark.parametrize(("code", "is_kept"), [(0, False), (1, True), (75, True)])
def test_published_weights_go_with_the_end_of_the_stage(
    place: Workplace, code: int, is_kept: bool
) -> None:
    config = parse_json(StageConfig, (place.folder / "stage.json").read_bytes(), "stage.json")
    store = open_store(config.stage_uri)
    store.put("weights/v3/model.safetensors", b"gigabytes")
    store.put("a1/result.json", b"{}")
    assert place.run(f"raise SystemExit({code})").code == code
    assert store.exists("weights/v3/model.safetensors") == is_kept
    assert store.exists("a1/result.json")


def test_the_token_is_new_and_private_each_time(tmp_path: Path) -> None:
    first = new_token(tmp_path / "token").read_text()
    second = new_token(tmp_path / "token").read_text()
    assert first != second
    assert min(len(first), len(second)) >= 32
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0


def test_servers_have_gpus_of_their_own_after_the_trainers(place: Workplace) -> None:
    config = a_config(place.folder, replicas=2, gpus=2)
    trainers = ResolvedWorkers(replicas=3, gpus_per_replica=1, precision="bf16")
    config = config.model_copy(update={"workers": trainers})
    (place.folder / "stage.json").write_text(config.to_json())
    ended = place.run(
        "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))",
        stub="print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)",
        shown="7,6,5,4,3,2,1,0",
    )
    logs = [(place.folder / f"rollout-{i}/log.txt").read_text() for i in range(2)]
    assert (logs, ended.output) == (["4,3\n", "2,1\n"], "7,6,5,4,3,2,1,0\n"), ended.errors


@given(st.integers(1, 8), st.integers(0, 4), st.integers(1, 8), st.integers(1, 4))
def test_no_gpu_is_given_away_twice(pods: int, each: int, servers: int, of_one: int) -> None:
    workers = Workers(replicas=pods, gpus_per_replica=each)
    shares = server_gpus(workers, Rollout(replicas=servers, gpus_per_replica=of_one))
    trainers = range(workers.world_size if each else 0)
    numbers = [*trainers, *(number for share in shares for number in share)]
    assert numbers == list(range(len(trainers) + servers * of_one))


def test_gpus_are_chosen_among_those_that_are_shown() -> None:
    assert gpu_choice(range(2, 4), {}) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    shown = {"CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b,GPU-c"}
    assert gpu_choice(range(1, 3), shown) == {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-c"}
    assert gpu_choice(range(0), shown) == {}
    with pytest.raises(SpecError, match="CUDA_VISIBLE_DEVICES: shows 3 GPUs, 4 are needed"):
        gpu_choice(range(2, 4), shown)


def test_a_server_is_told_the_runs_model_and_the_longest_context(tmp_path: Path) -> None:
    config = a_config(tmp_path, gpus=3)
    assert server_arguments(config) == [
        f"--model={tmp_path / 'model'}",
        "--gpus=3",
        "--max-model-len=104",
    ]
    longer = Evaluation(data=DataSource(uri="file:///e.parquet"), max_response_tokens=1000)
    hub = ModelSource(uri="hf://Qwen/Qwen3-VL-4B-Instruct")
    config = config.model_copy(update={"evaluation": longer, "model": hub})
    assert server_arguments(config)[0] == "--model=Qwen/Qwen3-VL-4B-Instruct"
    assert server_arguments(config)[2] == "--max-model-len=1064"
