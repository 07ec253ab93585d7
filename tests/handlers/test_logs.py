"""Logs say which run they are about, in one line each, and never a secret."""

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import kopf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prism_operator.cluster.logs import (
    JsonFormatter,
    redacted,
    run_context,
    setup_logs,
)

LOG = logging.getLogger("prism_operator.cluster.example")
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJvcGVyYXRvciJ9.c2lnbmF0dXJl"
TOUCHED = ("", "prism_operator", "kopf", "aiohttp", "asyncio", "kubernetes", "urllib3")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the process' loggers as they were."""
    loggers = [logging.getLogger(name) for name in TOUCHED]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    logging.captureWarnings(False)
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers[:] = propagate, handlers


class Lines(io.StringIO):
    """What was written."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def documents(self) -> list[dict[str, Any]]:
        """Line by line."""
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines() -> Lines:
    """Where the logs go, as JSON."""
    out = Lines()
    setup_logs("json", stream=out)
    return out


def test_a_record_carries_run_stage_and_attempt(lines: Lines) -> None:
    with run_context("team-a", "qwen", "uid-1"):
        LOG.info("accepted")
    with run_context("team-a", "qwen", "uid-1", "sft", 2):
        LOG.warning("attempt %d ended", 1)
    LOG.info("idle")
    first, second, third = lines.documents()
    about = {"run": "team-a/qwen", "uid": "uid-1"}
    rest = {"logger": LOG.name, "time": first["time"]}
    assert first == {"level": "info", "message": "accepted"} | about | rest
    assert {key: second[key] for key in ("run", "stage", "attempt", "message", "level")} == {
        "run": "team-a/qwen",
        "stage": "sft",
        "attempt": 2,
        "message": "attempt 1 ended",
        "level": "warning",
    }
    assert set(third) == {"time", "level", "logger", "message"}


def test_runs_that_are_worked_on_at_the_same_time_are_not_mixed_up(lines: Lines) -> None:
    async def work(name: str) -> None:
        with run_context("team-a", name, f"uid-{name}"):
            for _ in range(3):
                await asyncio.sleep(0)
                LOG.info(name)

    async def main() -> None:
        await asyncio.gather(*(work(f"run-{i}") for i in range(5)))

    asyncio.run(main())
    documents = lines.documents()
    assert len(documents) == 15
    assert all(document["run"] == f"team-a/{document['message']}" for document in documents)


def test_a_trace_stays_in_its_line(lines: Lines) -> None:
    try:
        raise ValueError(f"refused: Bearer {TOKEN}")
    except ValueError:
        LOG.exception("reconcile failed")
    (document,) = lines.documents()
    assert document["error"].splitlines()[-1] == "ValueError: refused: Bearer ***"
    assert document["error"].startswith("Traceback")


def test_of_kopf_only_warnings_are_heard_with_the_run_they_are_about(lines: Lines) -> None:
    body = kopf.Body(
        {"kind": "PrismRun", "metadata": {"name": "qwen", "namespace": "team-a", "uid": "uid-1"}}
    )
    from kopf._core.actions.loggers import ObjectLogger  # what kopf gives its handlers

    logger = ObjectLogger(body=body, settings=kopf.OperatorSettings())
    logger.info("Handler 'reconcile' succeeded.")
    logger.warning("Patching failed.")
    logging.getLogger("kopf.activities.probe").info("probed")
    (document,) = lines.documents()
    assert (document["message"], document["run"], document["uid"]) == (
        "Patching failed.",
        "team-a/qwen",
        "uid-1",
    )
    assert document["logger"] == "kopf.objects"
    assert "settings" not in document


def test_loggers_that_write_by_themselves_are_brought_in_line(lines: Lines) -> None:
    other = io.StringIO()
    kopf_logger = logging.getLogger("kopf")
    kopf_logger.addHandler(logging.StreamHandler(other))
    kopf_logger.propagate = False
    setup_logs("json", stream=lines)
    kopf_logger.warning("once")
    assert [document["message"] for document in lines.documents()] == ["once"]
    assert other.getvalue() == ""


def test_warnings_of_python_are_records_too(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup_logs("json", stream=lines)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in lines.documents()[0]["message"]


def test_people_at_a_terminal_get_text_and_pods_json() -> None:
    for terminal, is_text in ((True, True), (False, False)):
        out = Lines(terminal=terminal)
        setup_logs(stream=out)
        with run_context("team-a", "qwen", "uid-1", "sft", 2):
            LOG.info("attempt started")
        text = out.getvalue()
        assert text.endswith("Z INFO team-a/qwen sft a2: attempt started\n") == is_text
        assert text.startswith("{") != is_text


def test_the_level_is_for_our_own_loggers() -> None:
    out = Lines()
    setup_logs("text", "DEBUG", out)
    LOG.debug("detail")
    logging.getLogger("kopf.objects").debug("noise")
    logging.getLogger("somebody.else").info("noise")
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        (f"token {TOKEN} expired", "token *** expired"),
        ("https://user:pa55@host/x", "https://user:***@host/x"),
        (
            "GET https://b.example/o?X-Amz-Signature=0123abc&X-Amz-Date=2026",
            "GET https://b.example/o?X-Amz-Signature=***&X-Amz-Date=2026",
        ),
        ("GET /api/v1/pods?watch=true&resourceVersion=7", None),
        ("https://host:6443/api", None),
        ("the Secret run-rollout has no key token", None),
        ("pod run-sft-a1-worker-0: exit code 74", None),
    ],
)
def test_what_looks_like_a_credential_is_blacked_out_and_nothing_else(
    text: str, safe: str | None
) -> None:
    assert redacted(text) == (text if safe is None else safe)


@example("half a pair: \ud800")
@given(st.text(st.characters(), max_size=50))
def test_any_text_is_one_line_of_json(text: str) -> None:
    record = logging.LogRecord("prism_operator", logging.INFO, "", 0, text, None, None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert isinstance(json.loads(line)["message"], str)
