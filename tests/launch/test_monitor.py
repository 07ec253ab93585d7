"""The port of a stage's first launcher: progress for the operator, metrics for Prometheus."""

import json
import socket
import threading
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from launch_builders import a_free_port, an_sft_config
from prism_api.base import parse_json
from prism_api.reporting import ProgressReport
from prism_api.stage_config import StageConfig
from prism_trainer.metrics import Progress
from prism_trainer.monitor import serve_progress


class Served:
    """A launcher's port, in this process."""

    def __init__(self, config: StageConfig, folder: Path) -> None:
        self.config, self.folder, self.port = config, folder, a_free_port()
        serve_progress(config, folder, {"PRISM_TRAINER_PORT": str(self.port)})

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        answer, body = self.ask(path, method)
        return answer.status, body

    def ask(self, path: str, method: str = "GET") -> tuple[HTTPResponse, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read().decode()

    def progress(self, *, step: int, metrics: dict[str, float]) -> None:
        writer = Progress(self.folder / "progress.json", "sft", 8, is_writer=True)
        for done in range(step):
            writer.report(done + 1, "train", done + 1, 8, metrics)


@pytest.fixture
def served(tmp_path: Path, digits_folder: Path) -> Served:
    return Served(an_sft_config(tmp_path, digits_folder), tmp_path)


def test_before_the_first_iteration_it_says_so(served: Served) -> None:
    assert served.get("/progress") == (503, "no iteration is done yet; ask again\n")
    assert served.get("/metrics") == (200, "")


def test_progress_is_that_of_the_newest_iteration_with_the_attempt_that_made_it(
    served: Served,
) -> None:
    served.progress(step=3, metrics={"loss": 0.5, "tokens_per_second": 100.0})

    answer, body = served.ask("/progress")

    assert answer.getheader("Content-Type") == "application/json"
    report = parse_json(ProgressReport, body, "progress")
    assert (report.stage, report.phase, report.step, report.steps) == ("sft", "train", 3, 8)
    assert (report.uid, report.attempt) == (served.config.run.uid, served.config.attempt)
    assert report.metrics == {"loss": 0.5, "tokens_per_second": 100.0}
    assert report.eta_seconds is not None
    assert report.eta_seconds >= 0


def test_metrics_that_are_not_finite_are_left_out(served: Served) -> None:
    served.progress(step=1, metrics={"loss": 0.5, "kl": float("nan"), "gap": float("inf")})

    assert json.loads(served.get("/progress")[1])["metrics"] == {"loss": 0.5}
    assert "NaN" not in served.get("/metrics")[1]


def test_every_metric_is_a_gauge_of_its_name_with_run_stage_and_phase(served: Served) -> None:
    served.progress(step=3, metrics={"loss": 0.5, "expert load/0": 0.25, "step": 77.0})

    answer, body = served.ask("/metrics")

    assert (answer.getheader("Content-Type") or "").startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    values = {name: family.samples[0].value for name, family in families.items()}
    assert values.pop("prism_trainer_eta_seconds") >= 0
    assert values == {
        "prism_trainer_attempt": 1,
        "prism_trainer_step": 3,
        "prism_trainer_steps": 8,
        "prism_trainer_loss": 0.5,
        "prism_trainer_expert_load_0": 0.25,
    }
    labels = {"run": "small", "stage": "sft", "phase": "train"}
    for family in families.values():
        assert family.type == "gauge"
        assert family.documentation
        assert [sample.labels for sample in family.samples] == [labels]


def test_other_paths_and_methods_are_refused(served: Served) -> None:
    assert served.get("/")[0] == 404
    assert served.get("/progress/../../etc/passwd")[0] == 404
    assert served.get("/progress", "POST")[0] == 501
    assert served.get("/progress?x=1")[0] == 503


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET " + b"/x" * 40000, b"", b"\0" * 70000],
)
def test_bad_requests_do_not_end_it(
    served: Served, request_: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(request_)

    assert served.get("/progress")[0] == 503
    assert capsys.readouterr().err == ""


def test_somebody_who_connects_and_says_nothing_keeps_nobody_waiting(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)):
        assert served.get("/progress")[0] == 503


def test_a_broken_progress_file_ends_one_answer_and_not_the_server(served: Served) -> None:
    (served.folder / "progress.json").write_text("{")
    with pytest.raises(ConnectionError):
        served.get("/progress")

    served.progress(step=1, metrics={})
    assert served.get("/progress")[0] == 200


def test_a_port_in_use_is_named_and_is_no_error(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_progress(served.config, served.folder, {"PRISM_TRAINER_PORT": str(served.port)})

    said = capsys.readouterr().err
    assert (
        f"PRISM_TRAINER_PORT: {served.port} cannot be listened on (Address already in use" in said
    )
    assert "training goes on" in said


@pytest.mark.parametrize("port", ["http", "70000", "-1"])
def test_neither_is_one_that_is_no_port(
    port: str, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_progress(served.config, served.folder, {"PRISM_TRAINER_PORT": port})

    assert f"{port} cannot be listened on (no port number)" in capsys.readouterr().err


def test_without_a_port_nothing_is_served(served: Served) -> None:
    before = threading.active_count()

    serve_progress(served.config, served.folder, {})

    assert threading.active_count() == before
