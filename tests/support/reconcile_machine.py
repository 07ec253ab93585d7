"""A machine that plays a run's cluster, its user and its operator, which may die at any request."""

from collections.abc import Set
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from prism_api.status import State
from reconcile_laws import ASKS_FOR_CHANGES, ReconcileLaws
from simulated_operator import KINDS

STORE, SAVED = 74, 75
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


class World(ReconcileLaws):
    """Draws what happens next; the operator looks whenever it likes."""

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

    # The cluster, the user, and time.

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

    @rule(seconds=st.sampled_from([0.5, 5.0, 11.0, 31.0, 61.0, 400.0, 2100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    def do(self, move: Move) -> None:
        name, facts = move
        getattr(self, name)(**facts)

    # So that all goes well.

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
