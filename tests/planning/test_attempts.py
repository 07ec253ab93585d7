"""observe_attempt(): how each way in which an attempt goes on or ends is recorded."""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import pytest

from prism_api.exit_codes import WORST_FIRST, ExitCode
from prism_api.reporting import ProgressReport
from prism_api.status import AttemptStatus
from prism_operator.planning.attempts import (
    STRAGGLER_SECONDS,
    gang_digest,
    is_draining,
    observe_attempt,
    report_of,
)
from prism_operator.planning.sightings import ChildrenSeen, JobSeen, PodSeen
from run_builders import UID
from sighting_builders import JOB_UID, NOW, a_job, a_pod, a_step, an_attempt, failed, later, seen
from simulated_cluster import of_another_run
from simulated_cluster import report_of as a_report_of

STEP = a_step()
REPORT = a_report_of(STEP.config(1, None)).model_dump_json(by_alias=True)
STOPPED = an_attempt(stopping="suspended", stopped_by="user")
OVERDUE = an_attempt(stopping="no step", stopped_by="deadline")
WAITING = an_attempt(has_started=False)
STOPPED_EARLY = an_attempt(has_started=False, stopping="suspended", stopped_by="user")
DONE = (a_pod(0, "Succeeded", exit_code=0), a_pod(1, "Succeeded", exit_code=0))


@dataclass(frozen=True)
class End:
    """What is seen of an attempt, and what is made of it; no outcome: it goes on."""

    name: str
    attempt: AttemptStatus
    found: ChildrenSeen
    outcome: str | None
    code: int | None = None
    message: str = ""

    def __str__(self) -> str:
        return self.name


def case(
    name: str,
    *pods: PodSeen,
    attempt: AttemptStatus | None = None,
    job: JobSeen | None = a_job(),  # noqa: B008
    ends: tuple[str, int | None, str] | None = None,
) -> End:
    outcome, code, message = ends or (None, None, "")
    return End(name, attempt or an_attempt(), seen(*pods, job=job), outcome, code, message)


BOTH = (a_pod(0), a_pod(1))
DRAINED = "EvictionByEvictionAPI: node is drained"
ENDS = (
    case("a gang that runs goes on", *BOTH),
    case("all well ends with 0", *DONE, ends=("ended", 0, "")),
    case("one that is done waits for the others", DONE[0], a_pod(1)),
    case(
        "the reason is that of the pod that failed",
        failed(65, 0, "row 3 is no JSON"), failed(1, 1, "lost its peer"),
        ends=("ended", 65, "run-sft-a1-worker-0: row 3 is no JSON"),
    ),
    case(
        "without last words the exit code is told",
        failed(2, 0), DONE[1], ends=("ended", 2, "run-sft-a1-worker-0: exit code 2"),
    ),
    case(
        "a pod without any code has failed",
        failed(None, 0), DONE[1], ends=("ended", None, "run-sft-a1-worker-0: failed"),
    ),
    case(
        "who was out of memory is named before who lost it",
        failed(1, 0, "lost rank 1"), failed(137, 1, reason="OOMKilled"),
        ends=("ended", 137, "run-sft-a1-worker-1: OOMKilled"),
    ),
    case("the others have a moment to say why", failed(1, 0, "lost its peer"), a_pod(1)),
    case(
        "an eviction is no fault of the attempt, whatever its processes say to it",
        failed(75, 0, disruption=DRAINED), failed(1, 1),
        ends=("preempted", None, f"run-sft-a1-worker-0: {DRAINED}"),
    ),
    case(
        "a lost node takes the attempt with it",
        a_pod(0, "Unknown", disruption="its node does not answer"), a_pod(1),
        ends=("preempted", None, "run-sft-a1-worker-0: its node does not answer"),
    ),
    case(
        "a pod that is deleted by hand is taken away",
        a_pod(0), a_pod(1, is_deleting=True),
        ends=("preempted", None, "run-sft-a1-worker-1 deleted"),
    ),
    case(
        "so is one that has ended because of that",
        a_pod(0), failed(143, 1, is_deleting=True),
        ends=("preempted", None, "run-sft-a1-worker-1 deleted"),
    ),
    case(
        "but what a failed gang's clean-up deletes was not taken away",
        failed(65, 0, "bad row"), failed(75, 1, is_deleting=True), job=a_job(is_finished=True),
        ends=("ended", 65, "run-sft-a1-worker-0: bad row"),
    ),
    case("a pod that is gone was deleted", a_pod(0),
         ends=("preempted", None, "a pod of it was deleted")),
    case(
        "a pod that was replaced as well",
        a_pod(0), a_pod(1, uid="another"), ends=("preempted", None, "a pod of it was deleted"),
    ),
    case(
        "a deleted job is a loss", *BOTH, job=a_job(is_deleting=True),
        ends=("preempted", None, "its PyTorchJob was deleted"),
    ),
    case(
        "so is one that is gone", job=None, ends=("preempted", None, "its PyTorchJob was deleted"),
    ),
    case(
        "and one that was made anew by others", job=a_job(uid="another"),
        ends=("preempted", None, "its PyTorchJob was deleted"),
    ),
    case(
        "Kueue takes machines back by suspending the job",
        failed(75, 0, is_deleting=True), failed(1, 1), job=a_job(is_queued=True),
        ends=("preempted", None, "its PyTorchJob was suspended"),
    ),
    case(
        "a job that fails before it has pods says why",
        attempt=WAITING, job=a_job(is_finished=True, message="no quota"),
        ends=("ended", None, "no quota"),
    ),
    case(
        "one that was deleted and has saved itself before anybody looked is taken away, too",
        failed(75, 0, is_deleting=True), failed(75, 1, is_deleting=True),
        job=a_job(is_finished=True), ends=("preempted", None, "run-sft-a1-worker-0 deleted"),
    ),
    case(
        "pods that were deleted before anybody looked are lost, and no fault",
        job=a_job(is_finished=True, message="1 Worker replica(s) failed"),
        ends=("preempted", None, "pods of it were deleted"),
    ),
    case(
        "also before it was known that they ran", DONE[1],
        attempt=WAITING, job=a_job(is_finished=True, ended_pods=1),
        ends=("preempted", None, "pods of it were deleted"),
    ),
    case(
        "pods that were deleted when it was stopped are interrupted",
        attempt=STOPPED, job=a_job(is_finished=True, ended_pods=1),
        ends=("interrupted", None, "suspended"),
    ),
    # It was asked to stop.
    case("one that is stopped may save itself", *BOTH, attempt=STOPPED),
    case("also while its job goes", *BOTH, attempt=STOPPED, job=a_job(is_deleting=True)),
    case("also after that", *BOTH, attempt=STOPPED, job=None),
    case(
        "what its user stops is interrupted", failed(75, 0), failed(75, 1), attempt=STOPPED,
        ends=("interrupted", None, "suspended"),
    ),
    case(
        "also when it is gone", attempt=STOPPED, job=None, ends=("interrupted", None, "suspended"),
    ),
    case(
        "also if it was too slow and was killed", failed(137, 0), failed(1, 1), attempt=STOPPED,
        ends=("interrupted", None, "suspended"),
    ),
    case(
        "but not if it had a reason of its own", failed(64, 0, "no such model"), failed(75, 1),
        attempt=STOPPED, ends=("ended", 64, "run-sft-a1-worker-0: no such model"),
    ),
    case("and if it was done by then it is done", *DONE, attempt=STOPPED, ends=("ended", 0, "")),
    case(
        "a node that is lost while it stops changes nothing",
        a_pod(0, "Unknown", disruption="lost"), a_pod(1), attempt=STOPPED,
    ),
    case(
        "what a deadline stops has saved itself", failed(75, 0), failed(75, 1), attempt=OVERDUE,
        ends=("ended", 75, "no step"),
    ),
    case("also when it is gone", attempt=OVERDUE, job=None, ends=("ended", 75, "no step")),
    # Not all its pods have run.
    case("without a job it waits for one", attempt=WAITING, job=None),
    case("a job without pods waits for them", attempt=WAITING),
    case("nothing is lost of what has not begun", a_pod(0, "Pending"), attempt=WAITING),
    case("nor with a job that was deleted", attempt=WAITING, job=a_job(is_deleting=True)),
    case("nor with a pending pod", a_pod(0, "Pending", is_deleting=True), attempt=WAITING),
    case("pods of a deleted job are waited for", failed(75, 0), attempt=WAITING, job=None),
    case("and not taken for the next one's", failed(75, 0, job_uid="old"), attempt=WAITING),
    case(
        "an evicted pod ends it", failed(None, 0, disruption=DRAINED), a_pod(1, "Pending"),
        attempt=WAITING, ends=("preempted", None, f"run-sft-a1-worker-0: {DRAINED}"),
    ),
    case(
        "so does a job that has failed", failed(64, 0, "no model"), attempt=WAITING,
        job=a_job(is_finished=True), ends=("ended", 64, "run-sft-a1-worker-0: no model"),
    ),
    case(
        "and all pods having failed at once", failed(64, 0, "no model"), failed(1, 1),
        attempt=WAITING, ends=("ended", 64, "run-sft-a1-worker-0: no model"),
    ),
    case(
        "a stop before there is a job ends it at once",
        attempt=STOPPED_EARLY,
        job=None, ends=("interrupted", None, "suspended"),
    ),
    case(
        "but not while there is one", attempt=STOPPED_EARLY,
    ),
)  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_what_is_recorded(end: End) -> None:
    attempt = observe_attempt(STEP, end.attempt, end.found, NOW)

    assert (attempt.outcome, attempt.exit_code) == (end.outcome, end.code)
    if end.outcome is not None:
        assert attempt.message == end.message
        assert attempt.ended_at == NOW


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_the_order_of_pods_and_asking_again_change_nothing(end: End) -> None:
    first = observe_attempt(STEP, end.attempt, end.found, NOW)

    for pods in permutations(end.found.pods):
        assert observe_attempt(STEP, end.attempt, replace(end.found, pods=pods), NOW) == first
    if first.outcome is None:
        assert observe_attempt(STEP, first, end.found, NOW) == first


def test_the_codes_of_a_gang_are_judged_as_those_of_a_pod_s_processes() -> None:
    codes = [code for code in WORST_FIRST if code is not ExitCode.DONE]
    for place, worse in enumerate(codes):
        for better in codes[place:]:
            for pods in (
                (failed(worse, 0), failed(better, 1)),
                (failed(better, 0), failed(worse, 1)),
            ):
                attempt = observe_attempt(STEP, an_attempt(), seen(*pods, job=a_job()), NOW)
                assert attempt.exit_code == worse


def test_after_its_moment_a_gang_is_judged_by_who_has_spoken() -> None:
    found = seen(failed(1, 0, "lost its peer"), a_pod(1), job=a_job())
    first = observe_attempt(STEP, an_attempt(), found, NOW)
    assert (first.outcome, first.ended_at) == (None, NOW)

    early = observe_attempt(STEP, first, found, later(STRAGGLER_SECONDS - 0.1))
    late = observe_attempt(STEP, first, found, later(STRAGGLER_SECONDS))

    assert early.outcome is None
    assert (late.outcome, late.exit_code, late.ended_at) == ("ended", 1, NOW)


def test_job_gang_and_start_are_recorded_together_once_all_pods_have_run() -> None:
    for pods in ((), (a_pod(0),), (a_pod(0), a_pod(1, "Pending"))):
        assert observe_attempt(STEP, WAITING, seen(*pods, job=a_job()), NOW) == WAITING

    attempt = observe_attempt(STEP, WAITING, seen(*BOTH, job=a_job()), later(5))

    assert attempt.job_uid == JOB_UID
    assert attempt.gang == gang_digest(BOTH)
    assert attempt.trainer_started_at == later(5)


def test_a_pod_that_failed_before_its_job_was_made_again_is_forgotten() -> None:
    half = seen(failed(1, 0), a_pod(1, "Pending"), job=a_job())
    attempt = observe_attempt(STEP, WAITING, half, NOW)
    assert attempt.ended_at == NOW

    attempt = observe_attempt(STEP, attempt, seen(), later(5))
    again = seen(a_pod(0, "Pending", job_uid="new"), job=a_job(uid="new"))
    attempt = observe_attempt(STEP, attempt, again, later(60))

    assert (attempt.outcome, attempt.ended_at) == (None, None)


def test_what_is_queued_again_before_it_has_started_is_not_admitted() -> None:
    queued, admitted = seen(job=a_job(is_queued=True)), seen(job=a_job())
    attempt = WAITING.model_copy(update={"admitted_at": None})

    attempt = observe_attempt(STEP, attempt, admitted, later(1))
    assert attempt.admitted_at == later(1)
    attempt = observe_attempt(STEP, attempt, queued, later(2))
    assert attempt.admitted_at is None
    attempt = observe_attempt(STEP, attempt, admitted, later(3))
    assert attempt.admitted_at == later(3)


def test_the_first_step_is_when_rank_0_first_tells_of_one() -> None:
    def told(**facts: object) -> AttemptStatus:
        report = {"stage": "sft", "attempt": 1, "uid": UID, "phase": "train", "step": 1, "steps": 9}
        progress = ProgressReport.model_validate(report | facts, by_name=True)
        found = seen(*BOTH, job=a_job(), progress=progress)
        return observe_attempt(STEP, an_attempt(), found, later(7))

    assert told().stepped_at == later(7)
    for other in ({"step": 0}, {"attempt": 2}, {"stage": "rlvr"}, {"uid": "of-another-run"}):
        assert told(**other).stepped_at is None


def test_a_report_tells_of_steps_too() -> None:
    pods = (replace(DONE[0], termination_message=REPORT), DONE[1])
    assert observe_attempt(STEP, an_attempt(), seen(*pods, job=a_job()), NOW).stepped_at == NOW


@pytest.mark.parametrize(
    "pod",
    [
        replace(DONE[0], termination_message=""),
        replace(DONE[0], termination_message=REPORT[:200]),
        replace(DONE[0], termination_message=of_another_run(REPORT)),
        replace(DONE[0], termination_message=REPORT.replace('"sft"', '"rlvr"')),
        replace(DONE[0], termination_message=REPORT, index=1),
        replace(DONE[0], termination_message=REPORT, attempt=2),
        replace(DONE[0], termination_message=REPORT, exit_code=1, phase="Failed"),
    ],
    ids=["empty", "cut", "another run", "another stage", "rank 1", "another attempt", "failed"],
)
def test_nothing_else_proves_a_stage(pod: PodSeen) -> None:
    assert report_of(STEP, 1, seen(pod)) is None


def test_a_report_of_rank_0_proves_its_stage() -> None:
    report = report_of(STEP, 1, seen(replace(DONE[0], termination_message=REPORT)))
    assert report is not None
    assert report.model_dump_json(by_alias=True) == REPORT


def test_what_keeps_an_attempt_from_starting_is_its_message() -> None:
    blocked = a_pod(0, "Pending", blocker="Unschedulable: no GPU")
    server = replace(blocked, role="rollout", name="server", attempt=0, job_uid="d")
    job = a_job(is_queued=True)

    def message(found: ChildrenSeen, attempt: AttemptStatus = WAITING) -> str:
        return observe_attempt(STEP, attempt, found, NOW).message

    told, remedy = "Unschedulable: no GPU", "; free or add nodes that have what its pods ask for"
    assert message(seen(blocked, job=a_job())) == f"run-sft-a1-worker-0: {told}{remedy}"
    assert message(seen(server)) == f"server: {told}{remedy}"
    assert message(seen(job=job)) == ""  # its turn will come: nothing keeps it
    assert message(seen(blocked, job=job, trouble="no queue")) == "no queue"
    assert message(seen()) == ""
    assert message(seen(*BOTH, job=a_job(), trouble="x"), an_attempt(stepped_at=NOW)) == ""


def test_of_several_blocked_servers_the_first_by_name_is_told() -> None:
    servers = [
        replace(a_pod(), role="rollout", name=name, attempt=0, uid=name, blocker=f"why {name}")
        for name in ("s-a", "s-b")
    ]
    for pods in (servers, servers[::-1]):
        assert observe_attempt(STEP, WAITING, seen(*pods), NOW).message == "s-a: why s-a"


def test_an_attempt_drains_while_a_pod_of_it_holds_a_machine() -> None:
    assert is_draining(seen(a_pod(0), failed(1, 1)), STEP, 1)
    assert not is_draining(seen(failed(75, 0), DONE[1]), STEP, 1)
    assert not is_draining(seen(a_pod(0)), STEP, 2)


def test_an_attempt_drains_while_its_job_may_get_missing_pods_again() -> None:
    goes_on = seen(failed(75, 0), job=a_job())
    assert is_draining(goes_on, STEP, 1)
    for change in ("is_finished", "is_deleting"):
        changed: dict[str, Any] = {change: True}
        jobs = tuple(replace(job, **changed) for job in goes_on.jobs)
        assert not is_draining(replace(goes_on, jobs=jobs), STEP, 1)


def test_a_pod_that_failed_and_was_made_again_before_all_ran_ends_nothing_later() -> None:
    dying = replace(failed(75, 0), is_deleting=True)
    attempt = observe_attempt(STEP, WAITING, seen(dying, a_pod(1, "Pending"), job=a_job()), NOW)
    assert (attempt.outcome, attempt.ended_at) == (None, NOW)
    again = seen(a_pod(0, "Pending"), a_pod(1), job=a_job())
    attempt = observe_attempt(STEP, attempt, again, later(60))
    assert (attempt.outcome, attempt.ended_at) == (None, None)
