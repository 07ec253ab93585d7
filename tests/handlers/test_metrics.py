"""The operator's metrics mean what docs/metrics.md says."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from prism_api.names import STAGE_ORDER, StageKind
from prism_api.reporting import StageReport
from prism_api.status import (
    AttemptStatus,
    GpuSeconds,
    PrismRunStatus,
    Restarts,
    StageStatus,
    State,
)
from prism_operator.cluster.metrics import Metrics, setup_metrics
from report_builders import a_result

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return setup_metrics(registry)


def a_status(kind: StageKind = "sft", attempt: int = 1, **stage: Any) -> PrismRunStatus:
    """A run with one stage."""
    number = AttemptStatus(number=attempt, started_at=START)
    return PrismRunStatus(stages={kind: StageStatus(attempt=number, **stage)})


def used(metrics: Metrics) -> None:
    """Give every labelled metric a child, so that it is shown."""
    metrics.reconcile_errors["conflict"].inc()
    metrics.restarts["sft", "fault"].inc()
    metrics.gpu_seconds["allocated", "sft"].inc()
    metrics.stage_duration["sft"].observe(60)
    metrics.watch_events["pods"].inc()
    metrics.watch_restarts["pods", "gone"].inc()
    metrics.answered("get", "pods", "200", 0.01)


def shown(registry: CollectorRegistry) -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and meaning of every metric, as Prometheus reads them."""
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        if family.name.startswith("prism_") and not family.name.endswith("_created"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = [key for key in family.samples[0].labels if key != "le"]
            yield name, family.type, tuple(sorted(labels)), family.documentation


def listed() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """The same by the page."""
    section = PAGE.read_text().split("\n## Operator\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `prism_"):
            name, kind, labels, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            names = [label.strip("` ") for label in labels.split(",") if label]
            yield name.strip("`"), kind, tuple(sorted(names)), meaning


def test_the_page_lists_every_metric_with_type_labels_and_meaning(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    used(metrics)
    assert sorted(listed()) == sorted(shown(registry))
    assert len(list(listed())) == 14


def test_the_page_names_every_value_of_closed_labels() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = {row[1].strip(" `"): row[2] for row in rows}
    for label, values in (("state", list(State)), ("stage", get_args(StageKind))):
        assert cells[label].strip() == ", ".join(f"`{value}`" for value in values)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.sampled_from(list(State)))))
def test_runs_are_counted_by_the_state_that_each_was_last_seen_in(
    seen: list[tuple[str, State | None]],
) -> None:
    registry = CollectorRegistry()
    metrics = setup_metrics(registry)
    for uid, state in seen:
        metrics.saw_run(uid, state)
    expected = Counter(state for state in dict(seen).values() if state is not None)
    for state in State:
        assert registry.get_sample_value("prism_runs", {"state": state}) == expected[state]


def test_the_last_event_s_age_is_taken_when_it_is_asked_for(registry: CollectorRegistry) -> None:
    seconds = [10.0]
    metrics = setup_metrics(registry, clock=lambda: seconds[0])
    ages = []
    for _ in range(2):
        seconds[0] += 7.0
        ages.append(registry.get_sample_value("prism_last_event_age_seconds"))
    metrics.saw_event("pods")
    ages.append(registry.get_sample_value("prism_last_event_age_seconds"))
    assert ages == [7.0, 14.0, 0.0]


def test_restarts_are_counted_by_why_the_attempt_before_ended(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    statuses = [
        PrismRunStatus(),
        a_status(attempt=1),
        a_status(attempt=2, restarts=Restarts(faults=1)),
        a_status(attempt=3, restarts=Restarts(faults=1, preemptions=1)),
        a_status(attempt=3, restarts=Restarts(faults=1, preemptions=1), step=9),
        a_status(attempt=4, restarts=Restarts(faults=1, preemptions=1)),
        a_status(attempt=6, restarts=Restarts(faults=3, preemptions=1)),
    ]
    for before, after in pairwise(statuses):
        metrics.saw_status(before, after)

    def count(cause: str) -> float | None:
        labels = {"stage": "sft", "cause": cause}
        return registry.get_sample_value("prism_restarts_total", labels)

    assert [count(c) for c in ("fault", "preemption", "interruption")] == [3, 1, 1]


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from(STAGE_ORDER))
def test_gpu_time_adds_up_to_what_the_status_says(seconds: list[float], kind: StageKind) -> None:
    registry = CollectorRegistry()
    metrics = setup_metrics(registry)
    statuses = [PrismRunStatus()] + [
        a_status(kind, gpu_seconds=GpuSeconds(allocated=total, productive=total / 2))
        for total in sorted(seconds)
    ]
    for before, after in pairwise(statuses):
        metrics.saw_status(before, after)
    for name, total in (("allocated", max(seconds)), ("productive", max(seconds) / 2)):
        labels = {"kind": name, "stage": kind}
        counted = registry.get_sample_value("prism_gpu_seconds_total", labels)
        assert counted == pytest.approx(total)


def test_a_stage_s_duration_is_counted_once_when_its_result_is_there(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    times: dict[str, Any] = {"started_at": START, "ended_at": START + timedelta(hours=3)}
    report = StageReport(uri="s3://b/result.json", digest="a" * 64, result=a_result())
    running, done = a_status(started_at=START), a_status(**times, result=report)
    given_up = a_status(**times, state=State.FAILED)
    for before, after in [(running, given_up), (running, done), (done, done)]:
        metrics.saw_status(before, after)
    labels = {"stage": "sft"}
    name = "prism_stage_duration_seconds"
    assert registry.get_sample_value(f"{name}_count", labels) == 1
    assert registry.get_sample_value(f"{name}_sum", labels) == 3 * 3600


def test_requests_are_counted_by_code_and_timed_by_verb(
    metrics: Metrics, registry: CollectorRegistry
) -> None:
    for code in ("200", "200", "409"):
        metrics.answered("patch", "prismruns", code, 0.5)
    labels = {"verb": "patch", "resource": "prismruns", "code": "200"}
    assert registry.get_sample_value("prism_api_requests_total", labels) == 2
    name = "prism_api_request_duration_seconds_sum"
    assert registry.get_sample_value(name, {"verb": "patch"}) == 1.5


def test_a_child_is_looked_up_once(metrics: Metrics) -> None:
    child = metrics.api_requests["get", "pods", "200"]
    assert metrics.api_requests["get", "pods", "200"] is child
    assert len(metrics.api_requests) == 1
