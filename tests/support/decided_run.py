"""One run as decide() sees it, and everything that can happen to it: attempts, results, wishes.

What its stages are made of and which attempts count is kept here by bookkeeping of its own.
"""

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from observed_builders import a_proof
from prism_api.names import STAGE_ORDER, StageKind
from prism_api.resources import FailurePolicy
from prism_api.stage_config import StageResult
from prism_operator.planning.decide import Decision
from prism_operator.planning.observation import AttemptObserved, PastAttempts, RunObserved
from prism_operator.planning.plan import Plan
from run_builders import REMOVED, a_plan

FINAL_CODES = (64, 65, 70)
NEEDS_HELP = 74
SAVED = 75
OTHER_UID = "99999999-9999"


@dataclass(frozen=True)
class MadeOf:
    """What decides a result here: the only setting that users change, and what it started from."""

    seed: int
    parent: StageResult | None


class DecidedRun(RuleBasedStateMachine):
    """One run and everything that can happen to it."""

    @initialize(
        kinds=st.sets(st.sampled_from(STAGE_ORDER), min_size=1),
        restarts=st.integers(0, 3),
        preemptions=st.integers(0, 2),
        start_deadline=st.sampled_from([50, 500]),
        stage_deadline=st.none() | st.integers(501, 3000),
        help_seconds=st.none() | st.just(60.0),
        only_newest=st.booleans(),
    )
    def begin(
        self,
        kinds: set[StageKind],
        restarts: int,
        start_deadline: int,
        stage_deadline: int | None,
        preemptions: int = 2,
        help_seconds: float | None = None,
        only_newest: bool = False,
    ) -> None:
        """`only_newest`: of earlier attempts an executor knows no more than how many there were."""
        self.help_seconds, self.only_newest, self.cancel = help_seconds, only_newest, False
        self.draining: set[tuple[StageKind, int]] = set()
        self.absent = {f"spec.stages.{k}": REMOVED for k in STAGE_ORDER if k not in kinds}
        self.seed, self.plan = 0, a_plan(self.absent)
        self.kinds = [kind for kind in STAGE_ORDER if kind in kinds]
        self.policy = FailurePolicy(
            max_restarts=restarts,
            max_preemptions=preemptions,
            start_deadline_seconds=start_deadline,
            stage_deadline_seconds=stage_deadline,
        )
        self.now = 1000.0
        self.suspend = False
        self.attempts: dict[StageKind, list[AttemptObserved]] = {kind: [] for kind in self.kinds}
        self.results: dict[StageKind, Any] = {}
        self.made_of: dict[StageKind, MadeOf] = {}
        """Of the results of this run."""
        self.started_from: dict[tuple[StageKind, int], MadeOf] = {}
        self.last: Decision | None = None

    # What the world does.

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 60.0, 400.0, 2000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(suspend=st.booleans())
    def the_user_suspends_or_continues(self, suspend: bool) -> None:
        self.suspend = suspend

    @rule(cancel=st.sampled_from([False, False, True]))
    def the_user_cancels_or_regrets_it(self, cancel: bool) -> None:
        self.cancel = cancel

    @precondition(lambda self: self.all_running())
    @rule()
    def the_user_mends_what_an_attempt_waits_for(self) -> None:
        self.change(is_outdated=True)

    @rule(lingers=st.booleans())
    def pods_of_an_attempt_that_is_over_linger_or_go(self, lingers: bool) -> None:
        over = {(k, a.number) for k, f in self.attempts.items() for a in f if a.state != "running"}
        self.draining = set(sorted(over)[-1:]) if lingers else set()

    @precondition(lambda self: self.all_running())
    @rule()
    def an_attempt_steps(self) -> None:
        self.change(has_stepped=True)

    @precondition(lambda self: self.all_running())
    @rule(code=st.sampled_from([0, 1, -9, 137, None, SAVED, SAVED, NEEDS_HELP, 73, *FINAL_CODES]))
    def an_attempt_ends(self, code: int | None) -> None:
        self.change(state="ended", exit_code=code, ended_at=self.now)

    @precondition(lambda self: self.all_running())
    @rule()
    def an_attempt_is_preempted(self) -> None:
        self.change(state="preempted", ended_at=self.now)

    @rule()
    def the_runner_is_stopped(self) -> None:
        while self.all_running():
            self.change(state="interrupted", ended_at=self.now)

    @precondition(lambda self: self.all_running())
    @rule(lingers=st.booleans())
    def an_attempt_succeeds(self, lingers: bool) -> None:
        kind, attempt = self.all_running()[-1]
        self.put_result(kind, attempt.number, self.started_from[kind, attempt.number])
        if not lingers:
            self.change(state="ended", exit_code=0, ended_at=self.now, has_stepped=True)

    @rule(kind=st.sampled_from(STAGE_ORDER), of=st.sampled_from(STAGE_ORDER))
    def a_result_that_proves_nothing_turns_up(self, kind: StageKind, of: StageKind) -> None:
        if kind in self.kinds and kind not in self.results:
            self.results[kind] = a_proof(of, uid=OTHER_UID)

    @rule(seed=st.integers(0, 1))
    def the_user_changes_the_settings_or_undoes_that(self, seed: int) -> None:
        self.seed, self.plan = seed, self.plan_of(seed)

    @precondition(lambda self: self.made_of)
    @rule(place=st.integers(0, 2))
    def a_stage_gets_another_result(self, place: int) -> None:
        """As if its end had been done again by hand, which gives another checkpoint."""
        kind = list(self.made_of)[place % len(self.made_of)]
        self.put_result(kind, self.results[kind].attempt + 100, self.made_of[kind])

    @rule()
    def somebody_helps(self) -> None:
        """Space was freed: as the local runner does, the ended attempt is seen as interrupted."""
        for attempts in self.attempts.values():
            if attempts and attempts[-1].exit_code == NEEDS_HELP:
                attempts[-1] = replace(attempts[-1], state="interrupted", exit_code=None)

    # Bookkeeping.

    def found(self) -> RunObserved:
        known = 1 if self.only_newest else 10**6
        attempts = {kind: tuple(found[-known:]) for kind, found in self.attempts.items()}
        past = {kind: self.counted(found[:-known]) for kind, found in self.attempts.items()}
        draining = frozenset(self.draining)
        results = dict(self.results)
        return RunObserved(attempts, results, self.suspend, self.cancel, past, draining)

    def counted(self, attempts: list[AttemptObserved]) -> PastAttempts:
        return PastAttempts(
            faults=sum(self.is_fault(a) for a in attempts),
            preemptions=sum(a.state == "preempted" for a in attempts),
            seconds=sum(a.ended_at - a.started_at for a in attempts),
        )

    def is_busy(self) -> bool:
        """Whether anything holds machines."""
        return bool(self.all_running() or self.draining)

    def change(self, **facts: Any) -> None:
        kind, attempt = self.all_running()[-1]
        place = self.attempts[kind].index(attempt)
        self.attempts[kind][place] = replace(attempt, **facts)

    def all_running(self) -> list[tuple[StageKind, AttemptObserved]]:
        return [
            (kind, a)
            for kind, found in self.attempts.items()
            for a in found
            if a.state == "running"
        ]

    def plan_of(self, seed: int) -> Plan:
        return a_plan({"spec.seed": seed} | self.absent)

    def put_result(self, kind: StageKind, attempt: int, made_of: MadeOf) -> None:
        plan = self.plan_of(made_of.seed)
        self.results[kind] = a_proof(kind, attempt, after=made_of.parent, plan=plan)
        self.made_of[kind] = made_of

    def would_be_made_of(self, kind: StageKind) -> MadeOf:
        before = self.kinds[: self.kinds.index(kind)]
        return MadeOf(self.seed, self.results.get(before[-1]) if before else None)

    def is_proven(self, kind: StageKind) -> bool:
        before = self.kinds[: self.kinds.index(kind)]
        as_planned = self.made_of.get(kind) == self.would_be_made_of(kind)
        return as_planned and all(self.is_proven(earlier) for earlier in before)

    def current(self) -> StageKind | None:
        return next((kind for kind in self.kinds if not self.is_proven(kind)), None)

    def is_contradicted(self) -> bool:
        return self.current() in self.made_of

    def is_fault(self, attempt: AttemptObserved) -> bool:
        if attempt.state != "ended":
            return False
        if attempt.exit_code == NEEDS_HELP:
            return False
        slow = attempt.ended_at - attempt.started_at > self.policy.start_deadline_seconds
        return attempt.exit_code != SAVED or (slow and not attempt.has_stepped)

    def seconds(self, kind: StageKind) -> float:
        ends = [self.now if a.state == "running" else a.ended_at for a in self.attempts[kind]]
        return sum(e - a.started_at for e, a in zip(ends, self.attempts[kind], strict=True))

    def must_stop(self, kind: StageKind, attempt: AttemptObserved) -> bool:
        limit = self.policy.stage_deadline_seconds
        age = self.now - attempt.started_at
        return (
            kind != self.current()
            or self.is_contradicted()
            or self.suspend
            or self.cancel
            or attempt.is_outdated
            or (not attempt.has_stepped and age > self.policy.start_deadline_seconds)
            or (limit is not None and self.seconds(kind) > limit)
        )
