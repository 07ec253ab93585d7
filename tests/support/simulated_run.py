"""One run and all that may happen to it: its children, its user and its operator, in memory.

Whatever comes to an attempt is noted here, for what was made of it is judged by that.
"""

from collections import Counter, defaultdict
from collections.abc import Set
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from prism_api.names import STAGE_ORDER, StageKind
from prism_api.reporting import ProgressReport
from prism_operator.planning.sightings import PodSeen
from run_builders import REMOVED, UID
from simulated_cluster import SimulatedCluster, of_another_run
from simulated_operator import SimulatedOperator

START_DEADLINE = 300
Attempt = tuple[StageKind, int]


class SimulatedRun(RuleBasedStateMachine):
    """One run, its children, its user and its operator; nothing happens by itself."""

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
        self.is_fresh = True
        """Whether the operator has seen the newest state of everything."""

    # The cluster.

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

    # The operator and the user.

    def the_operator_is_restarted(self) -> None:
        self.operator.restart()

    def the_operator_is_in_trouble(self, text: str) -> None:
        self.operator.trouble = text

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

    def user_edits(self, changes: dict[str, Any]) -> None:
        self.operator.edit(changes)
        self.note_all("user")

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
