"""A stage over several pods: launchers that share a store and nothing else."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from launch_builders import ENDLESS, Pod, a_free_port, an_sft_config, wait_until, written
from prism_api.base import parse_json
from prism_api.errors import RendezvousError, SpecError
from prism_api.exit_codes import NEEDS_HELP, PERMANENT, ExitCode
from prism_api.reporting import ProgressReport, StageReport
from prism_api.resources import Workers
from prism_api.stage_config import StageConfig
from prism_trainer import pods
from prism_trainer.pods import Address, await_name, this_pod
from run_builders import Changes

TWO: Changes = {"spec.workers": {"replicas": 2, "engine": "replicated"}}
AT_ONCE_SECONDS = 30
"""Far less than anybody waits for another process."""
OF_TWO = {"PRISM_NODES": "2", "PRISM_NODE_RANK": "1", "PRISM_RENDEZVOUS": "job-worker-0:29500"}


def test_without_word_of_pods_a_launcher_runs_all_replicas() -> None:
    pod = this_pod(Workers(replicas=3, gpus_per_replica=2), {})

    assert (list(pod.ranks), pod.is_first, pod.meeting) == ([0, 1, 2, 3, 4, 5], True, None)
    assert pod.torchrun_options() == ["--standalone", "--nproc-per-node=6"]


def test_a_pod_runs_a_process_per_gpu_and_knows_their_ranks() -> None:
    pod = this_pod(Workers(replicas=2, gpus_per_replica=4), OF_TWO)

    assert (list(pod.ranks), pod.is_first) == ([4, 5, 6, 7], False)
    assert pod.meeting == Address("job-worker-0", 29500)
    options = pod.torchrun_options()
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4"} <= set(options)


def test_a_pod_that_is_alone_meets_nobody() -> None:
    pod = this_pod(Workers(gpus_per_replica=2), {"PRISM_NODES": "1", "PRISM_NODE_RANK": "0"})

    assert (list(pod.ranks), pod.meeting) == ([0, 1], None)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PRISM_NODES", "", "is not set; give a number from 1 to 2"),
        ("PRISM_NODES", "two", 'is "two"'),
        ("PRISM_NODES", "3", 'is "3"'),
        ("PRISM_NODES", "1", "is 1, but workers.replicas is 2; start a launcher per replica"),
        ("PRISM_NODE_RANK", "2", 'is "2"; give a number from 0 to 1'),
        ("PRISM_NODE_RANK", "-1", 'is "-1"'),
        ("PRISM_NODE_RANK", "٣", 'is "٣"'),
        ("PRISM_RENDEZVOUS", "", "is not set; give HOST:PORT"),
        ("PRISM_RENDEZVOUS", "host", 'is "host"'),
        ("PRISM_RENDEZVOUS", "host:0", 'is "host:0"'),
        ("PRISM_RENDEZVOUS", "host:65536", 'is "host:65536"'),
        ("PRISM_RENDEZVOUS", "--host:1", 'is "--host:1"'),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: str, says: str) -> None:
    with pytest.raises(SpecError) as caught:
        this_pod(Workers(replicas=2), OF_TWO | {name: value})

    assert f"{name}: {says}" in str(caught.value)


def test_a_name_is_waited_for_until_it_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolves_the_third_time(host: str, _: object) -> None:
        asked.append(host)
        if len(asked) < 3:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(pods, "_BETWEEN_LOOKUPS_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", resolves_the_third_time)

    await_name("job-worker-0", lambda: False)

    assert asked == ["job-worker-0"] * 3


def test_one_that_never_resolves_is_an_error_that_is_tried_again() -> None:
    with pytest.raises(
        RendezvousError, match=r"^nowhere\.invalid: the name .* within 0\.1 s"
    ) as caught:
        await_name("nowhere.invalid", lambda: False, patience_seconds=0.1)

    assert caught.value.exit_code not in PERMANENT | NEEDS_HELP | {ExitCode.DONE, ExitCode.SAVED}


def test_a_stop_ends_the_wait_for_a_name() -> None:
    await_name("nowhere.invalid", lambda: True)


Start = Callable[..., Pod]
"""Starts a pod of a stage, by its index; the keyword: what else its environment has."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    meeting = f"127.0.0.1:{a_free_port()}"
    started: list[Pod] = []

    def start(config: StageConfig, index: int, environment: Mapping[str, str] | None = None) -> Pod:
        environment = {
            "PRISM_NODES": "2",
            "PRISM_NODE_RANK": str(index),
            "PRISM_RENDEZVOUS": meeting,
            **(environment or {}),
        }
        started.append(Pod(tmp_path / f"pod-{index}", written(config, tmp_path), environment))
        return started[-1]

    yield start
    for pod in started:
        pod.kill()


@pytest.mark.slow
def test_two_pods_leave_one_report_and_the_weights_of_one_launcher_with_two_processes(
    tmp_path: Path, digits_folder: Path, start: Start
) -> None:
    config = an_sft_config(tmp_path, digits_folder, TWO)
    both = [start(config, index) for index in (1, 0)]
    second, first = both

    assert [pod.end() for pod in both] == [0, 0], first.said() + second.said()

    report = parse_json(StageReport, first.message(), "message")
    assert report.result.config_hash == config.config_hash
    assert second.message() == "done; the stage's first pod has the report"
    assert (first.ranks_started(), second.ranks_started()) == (["0"], ["1"])
    assert not (second.work / "progress.json").exists()
    (tmp_path / "alone").mkdir()
    alone = an_sft_config(tmp_path / "alone", digits_folder, TWO)
    launcher = Pod(tmp_path / "alone/pod", written(alone, tmp_path / "alone"), {})
    assert launcher.end() == 0, launcher.said()
    assert launcher.ranks_started() == ["0", "1"]
    theirs = parse_json(StageReport, launcher.message(), "message")
    assert weights(report) == weights(theirs)


def weights(report: StageReport) -> bytes:
    checkpoint = Path(report.result.checkpoint.uri.removeprefix("file://"))
    return (checkpoint / "export/model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_pod_that_is_killed_ends_the_other_which_is_tried_again(
    victim: int, tmp_path: Path, digits_folder: Path, start: Start
) -> None:
    config = an_sft_config(tmp_path, digits_folder, {**TWO, **ENDLESS})
    both = [start(config, index) for index in (0, 1)]
    wait_until(both[0].has_stepped)
    survivor = both[1 - victim]
    killed_at = time.monotonic()

    both[victim].kill()

    assert survivor.end() == ExitCode.CRASHED, survivor.said()
    assert time.monotonic() - killed_at < AT_ONCE_SECONDS
    assert survivor.message() == survivor.words()["message"] != ""


@pytest.mark.slow
def test_a_stop_of_one_pod_saves_the_stage_and_ends_both(
    tmp_path: Path, digits_folder: Path, start: Start
) -> None:
    ports = [str(a_free_port()) for _ in range(2)]
    config = an_sft_config(tmp_path, digits_folder, {**TWO, **ENDLESS})
    both = [start(config, i, {"PRISM_TRAINER_PORT": ports[i]}) for i in (0, 1)]
    wait_until(both[0].has_stepped)
    with urlopen(f"http://127.0.0.1:{ports[0]}/progress", timeout=10) as answer:
        report = parse_json(ProgressReport, answer.read(), "progress")
    assert (report.stage, report.uid, report.attempt) == ("sft", config.run.uid, 1)
    assert report.step >= 1
    assert report.metrics["loss"] > 0
    with urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=10) as answer:
        assert b"prism_trainer_loss{" in answer.read()
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{ports[1]}/progress", timeout=10)

    both[1].process.send_signal(signal.SIGTERM)

    assert [pod.end() for pod in both] == [75, 75], both[0].said()
    assert "saved: the next attempt goes on from there" in both[0].message()
    (manifest,) = tmp_path.glob("store/**/manifest.json")
    assert json.loads(manifest.read_text())["step"] >= 1
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{ports[0]}/progress", timeout=10)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_stop_while_the_others_are_not_there_ends_a_pod_at_once(
    index: int, tmp_path: Path, digits_folder: Path, start: Start
) -> None:
    pod = start(an_sft_config(tmp_path, digits_folder, TWO), index)
    wait_until(lambda: torchruns_of(pod) != [])
    time.sleep(5)  # until it waits for the other; whether it does makes no difference
    started = time.monotonic()

    pod.process.send_signal(signal.SIGTERM)

    assert pod.end() == ExitCode.SAVED, pod.said()
    assert time.monotonic() - started < AT_ONCE_SECONDS
    assert pod.ranks_started() == []


@pytest.mark.slow
def test_pods_that_do_not_meet_say_where_they_were_to(
    tmp_path: Path, digits_folder: Path, start: Start
) -> None:
    """The first one's torchrun ends, as when it has waited long enough."""
    pod = start(an_sft_config(tmp_path, digits_folder, TWO), 0)
    wait_until(lambda: torchruns_of(pod) != [])

    (torchrun,) = torchruns_of(pod)
    torchrun.kill()

    assert pod.end() == ExitCode.CRASHED
    assert "did not meet at 127.0.0.1:" in pod.message()


def torchruns_of(pod: Pod) -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process(pod.process.pid).children()
        if "torch.distributed.run" in process.cmdline()
    ]
