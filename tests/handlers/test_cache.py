"""The cache: what is newer is never taken back, whatever comes late, twice or not at all."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prism_operator.cluster.cache import Cache
from prism_operator.cluster.resources import CONFIG_MAPS, JOBS

RUN, NAMES = "run-1", ("a", "b", "c")


def a_document(name: str, uid: str, version: int, run: str = RUN) -> dict[str, Any]:
    """A ConfigMap of a run."""
    return {
        "metadata": {
            "name": name, "namespace": "team", "uid": uid, "resourceVersion": str(version),
            "labels": {"prism.dev/run-uid": run},
        }
    }  # fmt: skip


class Server(RuleBasedStateMachine):
    """An API server, its history, and what of it has reached a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 0
        self.there: dict[str, dict[str, Any]] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.taken = 0
        """Events that the watch has delivered."""
        self.answers: list[dict[str, Any]] = []
        self.cache = Cache()
        self.known: dict[str, int] = {}
        """Newest version that the cache was told of, by UID."""
        self.gone: dict[str, int] = {}
        """Versions at which it was told that an object went."""

    @rule(name=st.sampled_from(NAMES))
    def an_object_is_made_or_changed(self, name: str) -> None:
        self.version += 1
        before = self.there.get(name)
        uid = before["metadata"]["uid"] if before else f"{name}-{self.version}"
        self.put(name, uid)

    def put(self, name: str, uid: str) -> None:
        self.there[name] = a_document(name, uid, self.version)
        self.events.append(("MODIFIED", self.there[name]))
        self.answers.append(self.there[name])

    @precondition(lambda self: self.there)
    @rule(place=st.integers(0, 2), comes_back=st.booleans())
    def an_object_goes_or_loses_its_label(self, place: int, comes_back: bool) -> None:
        name = sorted(self.there)[place % len(self.there)]
        uid = self.there.pop(name)["metadata"]["uid"]
        self.version += 1
        self.events.append(("DELETED", a_document(name, uid, self.version)))
        if comes_back:
            self.version += 1
            self.put(name, uid)

    @precondition(lambda self: self.taken < len(self.events))
    @rule(count=st.integers(1, 3), again=st.integers(0, 3))
    def the_watch_delivers(self, count: int, again: int) -> None:
        """Some of it for a second time, as after a restart."""
        end = min(len(self.events), self.taken + count)
        for kind, document in self.events[max(0, self.taken - again) : end]:
            change = self.cache.remove if kind == "DELETED" else self.cache.put
            news = change(CONFIG_MAPS, document)
            assert news in (None, RUN)
            self.learn(kind, document)
        self.taken = end

    @precondition(lambda self: self.answers)
    @rule(place=st.integers(0, 5))
    def an_answer_to_a_write_arrives(self, place: int) -> None:
        document = self.answers[-1 - place % len(self.answers)]
        self.cache.put(CONFIG_MAPS, document)
        self.learn("MODIFIED", document)

    @rule()
    def a_full_list_arrives(self) -> None:
        """As consistent reads give it; the watch goes on from there."""
        self.cache.replace(CONFIG_MAPS, None, self.there.values(), self.version)
        self.taken = len(self.events)
        for document in self.there.values():
            self.learn("MODIFIED", document)
        listed = {d["metadata"]["uid"] for d in self.there.values()}
        for uid in self.known:
            if uid not in listed:
                self.gone[uid] = self.version
        assert self.cached() == {d["metadata"]["uid"] for d in self.there.values()}
        self.answers.clear()

    def learn(self, kind: str, document: dict[str, Any]) -> None:
        uid, version = document["metadata"]["uid"], int(document["metadata"]["resourceVersion"])
        told = self.gone if kind == "DELETED" else self.known
        told[uid] = max(version, told.get(uid, 0))

    def cached(self) -> set[str]:
        return {child.uid for child in self.cache.children(RUN).values()}

    @invariant()
    def what_it_shows_is_the_newest_that_it_was_told(self) -> None:
        for child in self.cache.children(RUN).values():
            assert child.version == self.known[child.uid]
            assert child.version > self.gone.get(child.uid, 0)

    @invariant()
    def it_shows_everything_that_it_was_told_is_there(self) -> None:
        newest: dict[str, tuple[str, int]] = {}
        for uid, version in self.known.items():
            name = uid.split("-")[0]
            if version > newest.get(name, ("", 0))[1]:
                newest[name] = (uid, version)
        there = {uid for uid, version in newest.values() if version > self.gone.get(uid, 0)}
        assert self.cached() == there

    def teardown(self) -> None:
        """Once everything has been delivered it shows what is there."""
        if self.taken < len(self.events):
            self.the_watch_delivers(len(self.events), 0)
        assert self.cached() == {d["metadata"]["uid"] for d in self.there.values()}


Server.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


TestCache = Server.TestCase
"""Hypothesis runs the machine through unittest."""


def test_an_object_that_has_our_label_again_is_known_again() -> None:
    cache = Cache()
    cache.put(CONFIG_MAPS, a_document("a", "a-1", 1))
    cache.remove(CONFIG_MAPS, a_document("a", "a-1", 2))
    assert not cache.children(RUN)

    assert cache.put(CONFIG_MAPS, a_document("a", "a-1", 3)) == RUN
    assert cache.remove(CONFIG_MAPS, a_document("a", "a-1", 2)) is None

    assert [c.uid for c in cache.children(RUN).values()] == ["a-1"]


def test_a_list_of_one_kind_and_namespace_says_nothing_of_others() -> None:
    cache = Cache()
    elsewhere = a_document("a", "a-1", 1)
    elsewhere["metadata"]["namespace"] = "other"
    cache.put(CONFIG_MAPS, elsewhere)
    cache.put(JOBS, a_document("j", "j-1", 2))
    cache.put(CONFIG_MAPS, a_document("b", "b-1", 3))

    assert cache.replace(CONFIG_MAPS, "team", [], 9) == {RUN}

    assert {c.uid for c in cache.children(RUN).values()} == {"a-1", "j-1"}


def test_what_was_made_after_a_list_was_taken_stays() -> None:
    cache = Cache()
    cache.put(CONFIG_MAPS, a_document("a", "a-1", 7))

    assert cache.replace(CONFIG_MAPS, None, [], 6) == set()

    assert cache.children(RUN)


def test_a_deletion_that_was_agreed_to_is_remembered_of_that_very_state_only() -> None:
    cache = Cache()
    cache.put(CONFIG_MAPS, a_document("a", "a-1", 1))
    (old,) = cache.children(RUN).values()
    cache.put(CONFIG_MAPS, a_document("a", "a-1", 2))
    cache.mark_deleting(RUN, old)
    (new,) = cache.children(RUN).values()
    assert not new.is_deleting

    cache.mark_deleting(RUN, new)

    (child,) = cache.children(RUN).values()
    assert child.is_deleting


def test_a_forgotten_run_has_no_children() -> None:
    cache = Cache()
    cache.put(CONFIG_MAPS, a_document("a", "a-1", 1))
    cache.put(CONFIG_MAPS, a_document("b", "b-1", 1, run="run-2"))
    cache.forget(RUN)
    assert not cache.children(RUN)
    assert cache.children("run-2")
