"""merge_patch(): applying it gives what was wanted, and it names nothing else."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prism_operator.cluster.runs import merge_patch
from simulated_operator import patched

SCALARS = st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "y"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)
"""As statuses are: without null."""


@given(DOCUMENTS, DOCUMENTS)
def test_applying_it_gives_what_was_wanted(before: Any, after: Any) -> None:
    assert patched(before, merge_patch(before, after)) == after


@given(DOCUMENTS)
def test_where_nothing_changes_it_is_empty(document: Any) -> None:
    assert merge_patch(document, document) == {}


@given(DOCUMENTS, DOCUMENTS)
def test_it_names_only_members_that_change(before: Any, after: Any) -> None:
    same = {k for k in after if k in before and before[k] == after[k]}
    assert not same & set(merge_patch(before, after))


def test_the_transcription_of_the_rfc_gives_its_examples() -> None:
    """RFC 7386, appendix A."""
    examples: list[tuple[Any, Any, Any]] = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for document, patch, result in examples:
        assert patched(document, patch) == result
