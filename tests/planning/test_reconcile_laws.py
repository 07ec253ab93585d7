"""Laws of the whole reconcile: whatever a cluster, a user and a dying operator do, these hold.

The machine plays all three (support/simulated_cluster.py, support/simulated_operator.py). Laws are
checked by what it did itself: which harm came to an attempt, what was reported, what was created.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Set
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from prism_api.base import parse
from prism_api.names import STAGE_ORDER, StageKind
from prism_api.reporting import ProgressReport
from prism_api.status import FINISHED, SETTLED, AttemptStatus, PrismRunStatus, StageStatus, State
from prism_operator.cluster.runs import status_document
from prism_operator.planning.attempts import moment
from prism_operator.planning.fold import Next, next_status
from prism_operator.planning.naming import attempt_name
from prism_operator.planning.sightings import JobSeen, PodSeen
from run_builders import REMOVED, UID
from simulated_cluster import SimulatedCluster, of_another_run
from simulated_operator import KINDS, Request, SimulatedOperator

ASKS_FOR_CHANGES = (64, 65, 70, 73)
STORE, SAVED = 74, 75
AFTER_ALL_GRACE = 45.0
"""Seconds; what has ended is gone by then."""
START_DEADLINE = 300
MOST_WRITES = 3
"""That one change leads to: to stop an attempt, that it has stopped, the next one."""

Attempt = tuple[StageKind, int]
Move = tuple[str, dict[str, Any]]
"""A method of the world and its arguments. Rules are drawn alike often: those that say little
share one."""
MOVES: list[Move] = [
    ("controllers_act", {}),
    ("what_was_deleted_goes", {}),
    *(("pods_that_were_deleted_end", {"with_word": word}) for word in (True, False)),
    *(("pods_start", {"only": only}) for only in (None, 0, 1)),
    *(("servers_become_ready_or_not", {"is_ready": is_ready}) for is_ready in (True, False)),
    *(("rank_0_tells_its_progress", {"of": "this", "step": step}) for step in (0, 1, 2)),
    *(("rank_0_tells_its_progress", {"of": of}) for of in ("the one before", "another run")),
]
ENDS: list[Move] = [
    *(("a_pod_fails", {"place": 0, "code": code}) for code in (1, 137, None, 0, *ASKS_FOR_CHANGES)),
    *(("a_pod_ends_without_fault", {"place": 0, "code": code}) for code in (STORE, SAVED)),
    ("one_pod_is_done_before_the_others", {"place": 0}),
]
MISCHIEF: list[Move] = [
    *(("a_job_is_ended", {"place": place, "how": "deleted"}) for place in (0, 1)),
    ("a_job_is_ended", {"place": 0, "how": "finished"}),
    *(("another_child_is_deleted_by_hand", {"place": place}) for place in range(3)),
    *(("kueue_admits_or_suspends", {"is_queued": is_queued}) for is_queued in (True, False)),
    *(("pods_cannot_start", {"text": text}) for text in ("", "ImagePullBackOff: no image")),
    *(("the_operator_is_in_trouble", {"text": text}) for text in ("", "quota exceeded")),
    ("the_operator_is_restarted", {}),
]
WISHES: list[Move] = [
    *(("the_user_suspends_or_resumes", {"suspend": suspend}) for suspend in (True, False, False)),
    *(("the_user_cancels_or_regrets_it", {"cancel": cancel}) for cancel in (True, False, False)),
    *(("the_user_changes_an_image", {"image": image}) for image in (0, 1)),
    *(("the_user_changes_the_budgets", {"restarts": n, "preemptions": n}) for n in (0, 1, 3)),
]


class World(RuleBasedStateMachine):
    """One run, its children, its user and its operator."""

    @initialize(
        kinds=st.sets(st.sampled_from(STAGE_ORDER), min_size=1),
        replicas=st.integers(1, 2),
        backend=st.sampled_from(["vllm", "inprocess"]),
        queued=st.booleans(),
        restarts=st.integers(0, 2),
        preemptions=st.integers(0, 2),
        stage_deadline=st.none() | st.just(2000),
        keep=st.fixed_dictionaries({"succeeded": st.booleans(), "failed": st.booleans()}),
        ttl=st.none() | st.just(100),
    )
    def begin(
        self,
        kinds: Set[StageKind] = frozenset(STAGE_ORDER),
        replicas: int = 2,
        backend: str = "vllm",
        queued: bool = False,
        restarts: int = 1,
        preemptions: int = 1,
        stage_deadline: int | None = None,
        keep: dict[str, bool] | None = None,
        ttl: int | None = None,
    ) -> None:
        self.kinds = [kind for kind in STAGE_ORDER if kind in kinds]
        policy = {"maxRestarts": restarts, "maxPreemptions": preemptions}
        policy["startDeadlineSeconds"] = START_DEADLINE
        if stage_deadline is not None:
            policy["stageDeadlineSeconds"] = stage_deadline
        self.keep = keep or {"succeeded": False, "failed": True}
        self.ttl, self.queued = ttl, queued
        absent = {f"spec.stages.{k}": REMOVED for k in STAGE_ORDER if k not in kinds}
        self.cluster = SimulatedCluster(queued)
        changes = absent | {
            "spec.workers": {"replicas": replicas, "gpusPerReplica": 1},
            "spec.rollout.backend": backend,
            "spec.failurePolicy": policy,
            "spec.keepChildren": self.keep,
        }
        if ttl is not None:
            changes["spec.ttlSecondsAfterFinished"] = ttl
        if queued:
            changes["spec.queue"] = {"name": "team"}
        self.operator = SimulatedOperator(self.cluster, changes)
        self.now = 1_000_000.0
        self.harm: dict[Attempt, set[str]] = defaultdict(set)
        """What came to an attempt: failed, saved, taken, deadline, user."""
        self.created: Counter[str] = Counter()
        self.may_be_made_again: set[str] = set()
        self.started: Counter[StageKind] = Counter()
        self.seen_states: set[str] = set()
        self.writes_in_a_row = 0
        """Since something happened, apart from what the operator did."""

    # The operator.

    @rule(behind=st.sets(st.sampled_from(KINDS)), dies_after=st.none() | st.integers(0, 3))
    def look(self, behind: Set[str] = frozenset(), dies_after: int | None = None) -> None:
        """One reconcile; of some kinds of children older states are seen, and it may be stopped
        dead between two of its requests."""
        for kind in set(KINDS) - behind:
            self.operator.look_at(kind)
        self.is_fresh = not behind
        stored, following = self.operator.status, self.operator.following(self.now)
        self.check_pure(following)
        self.check_status(stored, following.status)
        if self.operator.store(following.status):
            self.check_comes_to_rest()
            return
        requests = list(self.operator.requests(self.now))
        for place, (request, child) in enumerate(requests):
            if place == dies_after:
                self.operator.restart()
                return
            self.check_request(request, stored)
            self.operator.carry_out(request, child)
            if (request.verb, request.kind) == ("create", "PyTorchJob"):
                self.check_start_parameters(request.name, stored)
        if self.is_fresh and not requests:
            self.check_rest(stored)

    @rule()
    def looks_until_nothing_is_to_do(self) -> None:
        """As many reconciles as one event gives."""
        for _ in range(12):
            before = self.operator.document, dict(self.operator.known), repr(self.operator.views)
            self.look()
            if before == (
                self.operator.document, dict(self.operator.known), repr(self.operator.views)
            ):  # fmt: skip
                return
        raise AssertionError("it never comes to rest")

    def the_operator_is_restarted(self) -> None:
        self.operator.restart()

    # The laws.

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
        self.seen_states.add(after.state)
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

    # The cluster.

    @rule(move=st.sampled_from(MOVES))
    def the_cluster_moves(self, move: Move) -> None:
        self.do(move)

    @rule(steps=st.sampled_from([2, 3, 3, 4, 4]), move=st.sampled_from(ENDS))
    def an_attempt_comes_so_far_and_then(self, steps: int, move: Move) -> None:
        self.all_goes_well_for_a_while(steps)
        if self.running():
            self.do(move)

    @rule(steps=st.integers(2, 4), how=st.sampled_from(["right", "of another run", "damaged"]))
    def a_stage_is_done(self, steps: int, how: str) -> None:
        self.all_goes_well_for_a_while(steps)
        if self.running():
            self.a_gang_succeeds(how)

    @rule(
        steps=st.integers(2, 4),
        place=st.integers(0, 1),
        how=st.sampled_from(["evicted", "unreachable", "deleted", "gone"]),
    )
    def machines_are_taken_away(self, steps: int, place: int, how: str) -> None:
        self.all_goes_well_for_a_while(steps)
        if self.trainers():
            self.a_pod_is_taken_away(place, how)

    @rule(only=st.none() | st.just(0), goes=st.booleans())
    def a_job_is_deleted_before_it_trains(self, only: int | None, goes: bool) -> None:
        self.all_goes_well_for_a_while(2)
        self.cluster.queue(False)
        self.cluster.control()
        self.pods_start(only)
        if self.cluster.jobs:
            self.a_job_is_ended(len(self.cluster.jobs) - 1, "deleted")
        if goes:
            self.cluster.collect()

    @rule(steps=st.integers(0, 4), move=st.sampled_from(MISCHIEF))
    def meanwhile_somebody_meddles(self, steps: int, move: Move) -> None:
        self.all_goes_well_for_a_while(steps)
        if self.cluster.jobs:
            self.do(move)

    @rule(steps=st.integers(0, 4), move=st.sampled_from(WISHES))
    def meanwhile_its_user_wishes(self, steps: int, move: Move) -> None:
        self.all_goes_well_for_a_while(steps)
        self.do(move)

    def do(self, move: Move) -> None:
        name, facts = move
        getattr(self, name)(**facts)

    def all_goes_well_for_a_while(self, steps: int = 4) -> None:
        """So that what comes then comes to every stage and moment: with four steps, to a gang that
        trains."""
        if steps and {"Suspended", "Cancelled"} & {self.operator.status.state}:
            self.user_edits({"spec.suspend": False, "spec.cancel": False})
        self.now += steps
        rounds = [
            (self.cluster.collect, lambda: self.cluster.end_deleted(with_word=False)),
            (self.cluster.control, self.pods_start, self.servers_become_ready_or_not),
            (lambda: self.cluster.queue(False), self.cluster.control, self.pods_start),
            (self.rank_0_tells_its_progress,),
        ]
        for acts in rounds[:steps]:
            for act in acts:
                act()
            self.looks_until_nothing_is_to_do()

    def controllers_act(self) -> None:
        self.cluster.control()

    def what_was_deleted_goes(self) -> None:
        self.cluster.collect()

    def pods_that_were_deleted_end(self, with_word: bool) -> None:
        if with_word:
            self.note("saved", [p for p in self.cluster.trainers() if p.is_deleting])
        self.cluster.end_deleted(with_word=with_word)

    def pods_start(self, only: int | None = None) -> None:
        self.cluster.start(lambda p: only in (None, p.index))

    def servers_become_ready_or_not(self, is_ready: bool = True) -> None:
        if not is_ready or any(p.role == "rollout" for p in self.cluster.pods.values()):
            self.cluster.set_ready(is_ready)

    def kueue_admits_or_suspends(self, is_queued: bool) -> None:
        if self.queued:
            if is_queued:
                self.note("taken", self.cluster.trainers())
            self.cluster.queue(is_queued)

    def a_pod_fails(self, place: int, code: int | None) -> None:
        pod = self.pick(place)
        self.note("failed", [pod])
        self.cluster.end(pod, code, f"why {code}")

    def a_pod_ends_without_fault(self, place: int, code: int) -> None:
        pod = self.pick(place)
        self.note("saved", [pod])
        self.cluster.end(pod, code, f"why {code}")

    def a_gang_succeeds(self, how: str = "right") -> None:
        pods = [p for p in self.running() if p.attempt == self.running()[-1].attempt]
        for pod in pods:
            message = ""
            if pod.index == 0:
                message = self.cluster.report(pod)
                if how != "right":
                    self.cluster.reports.pop()
                    message = of_another_run(message) if how == "of another run" else message[:99]
            self.cluster.end(pod, 0, message)
        if how != "right" or all(p.index for p in pods):
            self.note("failed", pods)

    def one_pod_is_done_before_the_others(self, place: int) -> None:
        pod = self.pick(place)
        message = self.cluster.report(pod) if pod.index == 0 else ""
        self.cluster.end(pod, 0, message)
        self.note("failed", [pod])  # unless its gang follows

    def a_pod_is_taken_away(self, place: int, how: str) -> None:
        pod = self.trainers()[place % len(self.trainers())]
        self.note("taken", [pod])
        if how == "evicted":
            self.cluster.end(pod, None, "", disruption="EvictionByEvictionAPI: drained")
        elif how == "unreachable":
            which = {pod.uid}
            self.cluster.change_pods(
                lambda p: p.uid in which, disruption="its node does not answer", phase="Unknown"
            )
        elif how == "deleted":
            self.cluster.change_pods(lambda p: p.uid == pod.uid, is_deleting=True)
        else:
            del self.cluster.pods[pod.uid]

    def pods_cannot_start(self, text: str) -> None:
        self.cluster.change_pods(lambda p: p.phase == "Pending", blocker=text)

    def a_job_is_ended(self, place: int, how: str) -> None:
        job = list(self.cluster.jobs.values())[place % len(self.cluster.jobs)]
        if how == "finished":
            if not job.is_finished and not job.is_deleting:
                self.harm[job.kind, job.attempt].add("failed")
                self.cluster.finish(job, "its spec is not valid")
            return
        attempt = self.operator.status.stages[job.kind].attempt
        assert attempt is not None
        if (attempt.number, attempt.job_uid) == (job.attempt, None):
            self.may_be_made_again.add(job.name)
        self.harm[job.kind, job.attempt].add("taken")
        self.cluster.delete("PyTorchJob", job.name)

    def another_child_is_deleted_by_hand(self, place: int) -> None:
        servers = [("Deployment", name) for name in self.cluster.servers]
        names = [*servers, *sorted(self.cluster.others)]
        if not names:
            return
        self.cluster.delete(*names[place % len(names)])

    def rank_0_tells_its_progress(self, of: str = "this", step: int = 1) -> None:
        status = self.operator.status
        kind = status.current_stage
        attempt = status.stages[kind].attempt if kind else None
        if kind is None or attempt is None:
            return
        number = attempt.number - (of == "the one before")
        if of == "this" and not any(p.attempt == number for p in self.running()):
            return
        uid = "99999999" if of == "another run" else UID
        self.operator.progress = ProgressReport(
            stage=kind, attempt=number, uid=uid, phase="train", step=step, steps=9
        )

    def the_operator_is_in_trouble(self, text: str) -> None:
        self.operator.trouble = text

    # The user, and time.

    def the_user_suspends_or_resumes(self, suspend: bool) -> None:
        self.user_edits({"spec.suspend": suspend})

    def the_user_cancels_or_regrets_it(self, cancel: bool) -> None:
        self.user_edits({"spec.cancel": cancel})

    def the_user_changes_an_image(self, image: int) -> None:
        self.user_edits({"spec.images": {"trainer": f"mine:{image}"}})
        self.note_all("mended")

    def the_user_changes_the_budgets(self, restarts: int, preemptions: int) -> None:
        path = "spec.failurePolicy"
        self.user_edits({f"{path}.maxRestarts": restarts, f"{path}.maxPreemptions": preemptions})

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 31.0, 61.0, 400.0, 2100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def user_edits(self, changes: dict[str, Any]) -> None:
        self.operator.edit(changes)
        self.note_all("user")

    def teardown(self) -> None:
        """From anywhere: what its user can mend is mended, all goes well, and the run succeeds."""
        if not hasattr(self, "operator"):
            return
        path = "spec.failurePolicy"
        self.operator.edit(
            {
                "spec.suspend": False,
                "spec.cancel": False,
                "spec.images": {"trainer": "mended:1"},
                path: {"maxRestarts": 99, "maxPreemptions": 99, "startDeadlineSeconds": 9999},
            }
        )
        self.note_all("mended")
        self.operator.trouble = ""
        for _ in range(25 * len(self.kinds)):
            self.all_goes_well()
            if self.operator.status.state is State.SUCCEEDED:
                return
        raise AssertionError(f"it never ends: {self.operator.status}")

    def all_goes_well(self) -> None:
        """One round of everybody's work."""
        self.looks_until_nothing_is_to_do()
        self.cluster.queue(False)
        self.cluster.change_pods(lambda p: bool(p.disruption), is_deleting=True)
        self.cluster.collect()
        self.cluster.end_deleted(with_word=False)
        self.cluster.control()
        self.pods_start()
        self.cluster.set_ready(True)
        self.looks_until_nothing_is_to_do()
        self.rank_0_tells_its_progress()
        self.looks_until_nothing_is_to_do()
        if self.running():
            self.a_gang_succeeds()
        self.now += 20.0

    # Bookkeeping.

    def note(self, what: str, pods: list[PodSeen]) -> None:
        for pod in pods:
            self.harm[pod.kind, pod.attempt].add(what)

    def note_all(self, what: str) -> None:
        """Of every attempt that there has been."""
        for kind, stage in self.operator.status.stages.items():
            if stage.attempt is not None:
                self.harm[kind, stage.attempt.number].add(what)

    def trainers(self) -> list[PodSeen]:
        return self.cluster.trainers()

    def running(self) -> list[PodSeen]:
        """Trainer pods that run and may end by themselves."""
        return [p for p in self.trainers() if p.phase == "Running" and not p.is_deleting]

    def pick(self, place: int) -> PodSeen:
        return self.running()[place % len(self.running())]


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


World.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


TestLaws = World.TestCase
"""Hypothesis runs the machine through unittest."""


# A machine that never gets there would prove nothing.


def a_world(**facts: Any) -> World:
    world = World()
    world.begin(**facts)
    return world


def test_a_run_of_three_stages_costs_ten_status_writes() -> None:
    """Its start; then of each stage that its gang runs, its first step, and its proof together
    with the start of the next one."""
    world = a_world()
    for _ in range(2 * len(STAGE_ORDER)):
        world.all_goes_well()

    assert world.operator.status.state is State.SUCCEEDED
    assert world.operator.writes == 1 + 3 * len(STAGE_ORDER)
    assert sorted(world.created.values()) == [1, 1, 1]
    assert not world.cluster.jobs or all(j.is_deleting for j in world.cluster.jobs.values())


def test_a_stage_that_lost_its_machines_goes_on_with_its_next_attempt() -> None:
    world = a_world(preemptions=1)
    world.all_goes_well_for_a_while()
    world.a_pod_is_taken_away(0, "evicted")
    world.all_goes_well_for_a_while()
    world.all_goes_well_for_a_while()
    stage = world.operator.status.stages["sft"]

    assert stage.attempt is not None
    assert stage.attempt.number == 2
    assert (stage.restarts.faults, stage.restarts.preemptions) == (0, 1)
    assert world.running()
    assert set(world.created) == {"run-sft-a1", "run-sft-a2"}


def test_faults_end_at_their_budget() -> None:
    world = a_world(restarts=1, replicas=1)
    for _ in range(2):
        world.all_goes_well_for_a_while()
        world.all_goes_well_for_a_while()
        world.a_pod_fails(0, 1)
    world.looks_until_nothing_is_to_do()
    status = world.operator.status

    assert status.state is State.FAILED
    assert status.restarts == 1
    assert "failed 2 times" in status.message


@pytest.mark.parametrize("code", ASKS_FOR_CHANGES)
def test_what_would_fail_again_waits_for_a_change(code: int) -> None:
    world = a_world(restarts=0, replicas=1)
    world.all_goes_well_for_a_while()
    world.a_pod_fails(0, code)
    world.looks_until_nothing_is_to_do()
    expected = State.BLOCKED if code == 73 else State.FAILED
    assert world.operator.status.state is expected

    world.the_user_changes_an_image(1)
    world.all_goes_well_for_a_while()
    world.all_goes_well_for_a_while()

    assert world.operator.status.state is State.RUNNING
    assert world.running()
    assert world.operator.status.stages["sft"].restarts.faults == 0


def state_of(world: World) -> State:
    return world.operator.status.state


def test_a_suspended_run_holds_nothing_and_goes_on_where_it_was() -> None:
    world = a_world()
    world.all_goes_well()
    world.all_goes_well_for_a_while()
    assert world.operator.status.current_stage == "align"
    world.the_user_suspends_or_resumes(True)
    world.looks_until_nothing_is_to_do()
    assert state_of(world) is State.STOPPING
    world.cluster.collect()
    world.looks_until_nothing_is_to_do()
    assert state_of(world) is State.STOPPING, "its pods still run"
    world.cluster.end_deleted(with_word=False)
    world.looks_until_nothing_is_to_do()
    assert state_of(world) is State.SUSPENDED
    world.cluster.collect()
    assert not world.cluster.jobs
    assert not world.cluster.servers

    world.the_user_suspends_or_resumes(False)
    world.all_goes_well_for_a_while()

    assert world.operator.status.current_stage == "align"
    assert world.operator.status.restarts == 1


def test_a_job_that_was_deleted_before_it_trained_is_made_again_once_its_pods_are_gone() -> None:
    world = a_world(replicas=2)
    world.looks_until_nothing_is_to_do()
    world.cluster.control()
    world.pods_start(0)
    world.a_job_is_ended(0, "deleted")
    world.cluster.collect()
    world.looks_until_nothing_is_to_do()
    assert world.created == {"run-sft-a1": 1}

    world.cluster.end_deleted(with_word=False)
    world.looks_until_nothing_is_to_do()

    assert world.created == {"run-sft-a1": 2}
    assert world.operator.status.restarts == 0
