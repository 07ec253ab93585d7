"""Laws of the whole reconcile, checked at each status, request and rest of a simulated run.

They are checked by what the run noted itself: which harm came to an attempt, what was reported,
what was created.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from prism_api.base import parse
from prism_api.names import StageKind
from prism_api.status import FINISHED, SETTLED, AttemptStatus, PrismRunStatus, StageStatus, State
from prism_operator.cluster.runs import status_document
from prism_operator.planning.attempts import moment
from prism_operator.planning.fold import Next, next_status
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.sightings import JobSeen, PodSeen
from simulated_operator import Request
from simulated_run import SimulatedRun

ASKS_FOR_CHANGES = (64, 65, 70, 73)
AFTER_ALL_GRACE = 45.0
"""Seconds; what has ended is gone by then."""
MOST_WRITES = 3
"""That one change leads to: to stop an attempt, that it has stopped, the next one."""


class ReconcileLaws(SimulatedRun):
    """What holds of everything that the operator stores, asks for and leaves."""

    def check_pure(self, following: Next) -> None:
        """The same again, and in any order of children and members."""
        record, seen = self.operator.read(), self.operator.seen
        assert record.read is not None
        backwards = replace(
            seen, jobs=seen.jobs[::-1], pods=seen.pods[::-1], servers=seen.servers[::-1]
        )
        document = _backwards(self.operator.document.get("status", {}))
        policy = record.read.run.spec.failure_policy
        status, untouched = parse(PrismRunStatus, document), parse(PrismRunStatus, document)
        again = next_status(
            record.read.plan, policy, record.read.wanted, status, backwards, record.generation,
            self.now,
        )  # fmt: skip
        assert status_document(again.status) == status_document(following.status)
        assert again.decision == following.decision
        assert status == untouched == record.status

    def check_comes_to_rest(self) -> None:
        """Where nothing happens nothing is written, but for what follows from the first write."""
        document, writes = self.operator.document, self.operator.writes
        while self.operator.store(self.operator.following(self.now).status):
            assert self.operator.writes - writes < MOST_WRITES, "it writes for ever"
        self.operator.document, self.operator.writes = document, writes
        self.operator.record = None

    def check_status(self, before: PrismRunStatus, after: PrismRunStatus) -> None:
        assert set(after.stages) == set(self.kinds)
        for kind in self.kinds:
            old = before.stages.get(kind, StageStatus())
            self.check_stage(kind, old, after.stages[kind], after)
        assert sum(s.attempt is not None and s.attempt.outcome is None and not s.attempt.stopping
                   and s.result is None for s in after.stages.values()) <= 1  # fmt: skip
        assert before.start_time in (None, after.start_time)
        assert (after.completion_time is not None) == (after.state in FINISHED)
        if before.state in FINISHED and after.state in FINISHED:
            assert after.completion_time == before.completion_time
        since = {c.type: c for c in before.conditions}
        for condition in after.conditions:
            old_one = since.get(condition.type, condition)
            if old_one is not condition:
                is_same = old_one.status == condition.status
                assert (old_one.last_transition_time == condition.last_transition_time) or (
                    not is_same and condition.last_transition_time == moment(self.now)
                )
        is_proven = all(s.result for s in after.stages.values())
        assert is_proven or after.state is not State.SUCCEEDED
        if after.state in SETTLED:
            assert not [p for p in self.operator.seen.pods if p.role == "trainer" and not p.is_over]

    def check_stage(
        self, kind: StageKind, old: StageStatus, new: StageStatus, status: PrismRunStatus
    ) -> None:
        assert old.result in (None, new.result), "a proof is never lost"
        assert new.result is None or new.result in self.cluster.reports, "nor made up"
        for pod in self.operator.seen.pods:
            number = new.attempt.number if new.attempt else 0
            if _told(pod) in self.texts_of(kind, number):
                assert new.result is not None, "what is shown is taken"
        if (old.attempt and old.attempt.number) == (new.attempt and new.attempt.number):
            assert old.restarts == new.restarts
            if new.attempt is not None and new.attempt.stopped_by == "deadline":
                self.harm[kind, new.attempt.number].add("deadline")
            if old.attempt is not None and new.attempt is not None:
                _check_memory(old.attempt, new.attempt)
            return
        self.check_new_attempt(kind, old, new, status)

    def check_new_attempt(
        self, kind: StageKind, old: StageStatus, new: StageStatus, status: PrismRunStatus
    ) -> None:
        assert new.attempt is not None
        assert new.attempt.number == (old.attempt.number if old.attempt else 0) + 1
        assert new.result is None
        before = self.kinds[: self.kinds.index(kind)]
        assert all(status.stages[k].result in self.cluster.reports for k in before)
        assert not any(status.stages[k].attempt for k in self.kinds[len(before) + 1 :])
        spec = self.operator.document["spec"]
        assert not spec.get("suspend")
        assert not spec.get("cancel")
        live = [p for p in self.operator.seen.pods if p.role == "trainer" and not p.is_over]
        assert not live, "two attempts would hold machines"
        assert new.restarts.faults <= spec["failurePolicy"]["maxRestarts"]
        assert new.restarts.preemptions <= spec["failurePolicy"]["maxPreemptions"]
        if old.attempt is not None:
            self.check_counted(kind, old, old.attempt, new)

    def check_counted(
        self, kind: StageKind, old: StageStatus, last: AttemptStatus, new: StageStatus
    ) -> None:
        """An attempt is counted for what came to it."""
        harm = self.harm[kind, last.number]
        assert harm, "an attempt that nothing had happened to was replaced"
        faults = new.restarts.faults - old.restarts.faults
        preemptions = new.restarts.preemptions - old.restarts.preemptions
        assert (faults, preemptions) in ((0, 0), (1, 0), (0, 1))
        if faults:
            assert harm & {"failed", "deadline"}
        elif preemptions:
            # Or its pods were gone before the operator could look at them.
            is_unseen = last.message == "pods of it were deleted"
            assert "taken" in harm or is_unseen or self.is_out_of_sight(kind, last.number)
        else:
            assert harm & {"saved", "user", "mended", "deadline"}
        if last.outcome == "ended" and last.exit_code in ASKS_FOR_CHANGES:
            assert new.attempt is not None
            assert last.made_of != new.attempt.made_of, "the same would fail in the same way"
            assert not faults

    def is_out_of_sight(self, kind: StageKind, number: int) -> bool:
        seen = self.operator.seen
        job = seen.job_of(kind, number)
        if job is None:
            return False
        pods = [p for p in seen.gang(kind, number) if p.job_uid == job.uid]
        return len(pods) < self.cluster.replicas[job.uid]

    def check_request(self, request: Request, stored: PrismRunStatus) -> None:
        if request.verb == "create":
            self.check_create(request, stored)
        elif request.kind in ("PyTorchJob", "Deployment"):
            self.check_delete(request, stored)

    def check_create(self, request: Request, stored: PrismRunStatus) -> None:
        spec = self.operator.document["spec"]
        if request.kind in ("PyTorchJob", "Deployment"):
            assert stored.state not in SETTLED, "nothing that is settled takes machines"
        if request.kind != "PyTorchJob" or self.cluster.has("PyTorchJob", request.name):
            return
        assert self.cluster.has("ConfigMap", request.name)
        assert not self.created[request.name] or request.name in self.may_be_made_again
        self.created[request.name] += 1
        self.may_be_made_again.discard(request.name)
        ((kind, stage),) = [
            (k, s) for k, s in stored.stages.items() if _name_of(k, s) == request.name
        ]
        assert stage.attempt is not None
        assert stage.attempt.outcome is None
        assert not stage.attempt.stopping
        assert stage.result is None
        wanted = {j.uid for j in self.cluster.jobs.values() if not j.is_deleting}
        live = [p for p in self.cluster.trainers() if p.job_uid in wanted]
        assert not live, "pods of another job are wanted"
        assert not self.is_fresh or not self.cluster.trainers(), "pods of another job run"
        servers = [s for s in self.operator.seen.servers if s.kind == kind]
        if kind != "sft" and spec["rollout"]["backend"] == "vllm":
            assert servers
            assert servers[0].ready == 1

    def check_start_parameters(self, name: str, stored: PrismRunStatus) -> None:
        config = self.cluster.configs[name]
        place = self.kinds.index(config.kind)
        if not place:
            assert config.init_from is None
            return
        proof = stored.stages[self.kinds[place - 1]].result
        assert proof in self.cluster.reports
        assert proof is not None
        assert config.init_from == proof.result.checkpoint

    def check_delete(self, request: Request, stored: PrismRunStatus) -> None:
        """Nothing goes before what it showed is stored."""
        ((kind, stage),) = [
            (k, s) for k, s in stored.stages.items() if request.name in self.names_of(k, s)
        ]
        assert stage.attempt is not None
        if request.kind == "PyTorchJob":
            job = self.operator.views["jobs"][request.name]
            is_over = stage.attempt.outcome is not None or stage.result is not None
            assert is_over or stage.attempt.stopping or job.attempt < stage.attempt.number
            shown = {_told(p) for p in self.operator.seen.pods if p.attempt == job.attempt}
            if shown & self.texts_of(kind, job.attempt):
                assert stage.result is not None
        else:
            is_open = stage.state in (State.RUNNING, State.PENDING)
            assert not is_open or stage.attempt.stopping or stage.result

    def check_rest(self, stored: PrismRunStatus) -> None:
        """Everything is seen and nothing is to do: who holds machines?"""
        jobs = [j for j in self.cluster.jobs.values() if not j.is_deleting]
        holding = [j for j in jobs if not j.is_finished and not self.has_only_ended_pods(j)]
        servers = [s for s in self.cluster.servers.values() if not s.is_deleting]
        assert len(holding) <= 1
        if stored.state in SETTLED:
            assert not servers
            assert all(self.is_fading(stored, job) for job in holding)
        for job in holding:
            stage = stored.stages[job.kind]
            assert stage.state is not State.SUCCEEDED or self.is_fading(stored, job)
        for one in servers:
            stage = stored.stages[one.kind]
            assert stage.state is not State.SUCCEEDED or not _is_over(stage)
        if stored.completion_time is None:
            return
        age = self.now - stored.completion_time.timestamp()
        if self.ttl is not None and age >= self.ttl:
            assert not jobs
            assert not self.cluster.others
        if age >= AFTER_ALL_GRACE and not self.keep["failed"] and not self.keep["succeeded"]:
            assert not jobs
            assert not self.cluster.others

    def is_fading(self, stored: PrismRunStatus, job: JobSeen) -> bool:
        """Over, but given a moment to end by itself."""
        attempt = stored.stages[job.kind].attempt
        assert attempt is not None
        ended = attempt.ended_at
        return ended is not None and self.now - ended.timestamp() < AFTER_ALL_GRACE

    def has_only_ended_pods(self, job: JobSeen) -> bool:
        """It finishes at the Training Operator's next look."""
        own = [p for p in self.cluster.pods.values() if p.job_uid == job.uid]
        return len(own) == self.cluster.replicas[job.uid] and all(p.is_over for p in own)

    def names_of(self, kind: StageKind, stage: StageStatus) -> Iterator[str]:
        run = self.operator.read().read
        assert run is not None
        yield f"run-{kind}-rollout"
        for number in range(1, (stage.attempt.number if stage.attempt else 0) + 1):
            yield attempt_name(run.plan.run, kind, number)

    def texts_of(self, kind: StageKind, number: int) -> set[str]:
        """What an attempt has reported."""
        found = [r for r in self.cluster.reports if r.result.kind == kind]
        return {r.model_dump_json(by_alias=True) for r in found if r.result.attempt == number}


def _told(pod: PodSeen) -> str:
    is_told = (pod.role, pod.index, pod.exit_code) == ("trainer", 0, 0)
    return pod.termination_message if is_told else ""


def _name_of(kind: StageKind, stage: StageStatus) -> str:
    return f"run-{kind}-a{stage.attempt.number}" if stage.attempt else ""


def _is_over(stage: StageStatus) -> bool:
    return stage.attempt is not None and stage.attempt.outcome is not None


def _backwards(document: Any) -> Any:
    """The same, its members in the other order."""
    if isinstance(document, dict):
        return {key: _backwards(document[key]) for key in reversed(document)}
    return document


def _check_memory(old: AttemptStatus, new: AttemptStatus) -> None:
    """What is known of an attempt stays known."""
    for name in ("started_at", "trainer_started_at", "job_uid", "gang", "stepped_at", "outcome"):
        known = getattr(old, name)
        assert known in (None, getattr(new, name)), name
    assert old.stopping in ("", new.stopping)
    if old.outcome is not None:
        assert old == new
