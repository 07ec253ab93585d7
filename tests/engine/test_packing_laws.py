"""Laws of packing for groups of any size: what is laid out where, and what never matters."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_builders import MERGE, Shape, build_groups, build_policy, reference_logprobs
from prism_trainer.engine.layout import AttentionLayout
from prism_trainer.engine.packing import Group, Pack, Prompt, build_pack, split_into_packs

LENGTHS = st.integers(1, 60)
SHAPES = st.lists(st.tuples(LENGTHS, st.lists(LENGTHS, max_size=6)), max_size=8)
BUDGETS = st.integers(1, 150)
SMALL = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 9), max_size=4)), min_size=1, max_size=5
)
SIDES = st.integers(1, 3).map(lambda side: side * MERGE)
GRIDS = st.lists(st.tuples(st.just(1), SIDES, SIDES), max_size=3).map(tuple)
RESPONSES = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)
MIXTURES = st.lists(st.builds(Shape, GRIDS, st.integers(0, 9), RESPONSES), min_size=1, max_size=5)


def groups_of(shapes: list[tuple[int, list[int]]]) -> list[Group]:
    """Groups of so many tokens, every token of all of them different."""
    number = iter(range(1_000_000))

    def tokens(length: int) -> Any:
        return np.array([next(number) for _ in range(length)], dtype=np.int64)

    groups = []
    for prompt, responses in shapes:
        # Positions that lag behind the tokens, as after an image.
        positions = np.tile(np.arange(prompt) // 2, (3, 1))
        read = Prompt(tokens(prompt), positions, np.zeros(prompt, dtype=np.bool_))
        kinds = tuple(i % 3 for i in range(len(responses)))
        groups.append(Group(read, tuple(tokens(n) for n in responses), kinds))
    return groups


def sizes_of(packs: list[list[Group]]) -> list[list[tuple[int, ...]]]:
    return [[(len(g.prompt.token_ids), *map(len, g.continuations)) for g in p] for p in packs]


@given(shapes=SHAPES, budget=BUDGETS)
def test_every_continuation_is_in_one_pack_in_order_beside_its_own_prompt(
    shapes: list[tuple[int, list[int]]], budget: int
) -> None:
    groups = groups_of(shapes)

    parts = [part for pack in split_into_packs(groups, budget) for part in pack]

    def listed(some: list[Group]) -> list[tuple[int, int, int]]:
        return [
            (id(group.prompt), id(continuation), kind)
            for group in some
            for continuation, kind in zip(group.continuations, group.classes, strict=True)
        ]

    assert listed(parts) == listed(groups)
    seen = dict.fromkeys(id(part.prompt) for part in parts)
    assert list(seen) == [id(group.prompt) for group in groups]


@given(shapes=SHAPES, budget=BUDGETS)
def test_packs_keep_the_budget_and_groups_that_fit_are_whole(
    shapes: list[tuple[int, list[int]]], budget: int
) -> None:
    groups = groups_of(shapes)

    packs = split_into_packs(groups, budget)

    for pack in packs:
        cannot_be_divided = len(pack) == 1 and len(pack[0].continuations) <= 1
        assert cannot_be_divided or sum(part.num_tokens for part in pack) <= budget
    parts = [id(part) for pack in packs for part in pack]
    assert all(id(group) in parts for group in groups if group.num_tokens <= budget)


@given(shapes=SHAPES, budget=BUDGETS)
def test_no_pack_has_room_for_what_comes_next(
    shapes: list[tuple[int, list[int]]], budget: int
) -> None:
    packs = split_into_packs(groups_of(shapes), budget)

    for pack, following in pairwise(packs):
        assert sum(part.num_tokens for part in pack) + following[0].num_tokens > budget


@given(shapes=SHAPES, budget=BUDGETS)
def test_the_division_follows_from_lengths_and_order_alone(
    shapes: list[tuple[int, list[int]]], budget: int
) -> None:
    packs = split_into_packs(groups_of(shapes), budget)

    assert sizes_of(split_into_packs(groups_of(shapes), budget)) == sizes_of(packs)
    count = sum(map(len, packs[:2]))
    again = split_into_packs([part for pack in packs[:2] for part in pack], budget)
    assert sum(map(len, again)) == count
    assert sizes_of(again) == sizes_of(packs[:2])


@dataclass(frozen=True)
class Place:
    """One token of a pack, as its group has it."""

    token: int
    position: int
    group: int
    part: int
    """0 for the prompt, then the continuations."""
    offset: int
    kind: int

    def sees(self, other: "Place") -> bool:
        """The prompt before it, and its own part up to itself."""
        same = other.group == self.group
        own = other.part == self.part and other.offset <= self.offset
        return same and (own or (other.part == 0 and self.part > 0))


def places_of(groups: list[Group]) -> Iterator[Place]:
    for g, group in enumerate(groups):
        prompt = group.prompt
        for i, token in enumerate(prompt.token_ids.tolist()):
            yield Place(token, int(prompt.positions[0, i]), g, 0, i, -1)
        start = int(prompt.positions.max()) + 1
        for part, tokens in enumerate(group.continuations, 1):
            for i, token in enumerate(tokens.tolist()):
                yield Place(token, start + i, g, part, i, group.classes[part - 1])


def seen_in_batches(layout: AttentionLayout, tokens: int) -> torch.Tensor:
    """[tokens, tokens] who sees whom in the batches of a CPU."""
    rows = []
    for bucket in layout.buckets:
        for keys, mask in zip(bucket.key_index, bucket.mask[:, 0], strict=True):
            for visible in mask:
                row = torch.zeros(tokens, dtype=torch.int64)
                rows.append(row.index_add(0, keys[visible], torch.ones_like(keys[visible])))
    return torch.stack(rows)[layout.restore_index]


def seen_by_the_kernel(layout: AttentionLayout, tokens: int) -> torch.Tensor:
    """[tokens, tokens] who sees whom in the kernel of a GPU, queries in order of the pack."""
    varlen = layout.varlen
    assert varlen is not None
    index = torch.arange(tokens) if varlen.key_index is None else varlen.key_index
    seen = torch.zeros(tokens, tokens, dtype=torch.int64)
    queries, keys = varlen.cu_queries.tolist(), varlen.cu_keys.tolist()
    for q, q_end, k, k_end in zip(queries, queries[1:], keys, keys[1:], strict=False):
        for row in range(q, q_end):
            for key in index[k : k_end - (q_end - 1 - row)].tolist():
                seen[row, key] += 1
    return seen


@given(shapes=SMALL)
def test_tokens_positions_classes_and_sight_of_a_pack_are_those_of_its_groups(
    shapes: list[tuple[int, list[int]]],
) -> None:
    groups = groups_of(shapes)
    places = list(places_of(groups))
    wanted = torch.tensor([[int(a.sees(b)) for b in places] for a in places])

    for varlen, seen in ((False, seen_in_batches), (True, seen_by_the_kernel)):
        pack = build_pack(groups, varlen=varlen)
        assert pack.num_tokens == len(places)
        assert pack.input_ids[0].tolist() == [place.token for place in places]
        assert pack.position_ids[:, 0].tolist() == [[place.position for place in places]] * 3
        assert pack.token_classes.tolist() == [place.kind for place in places]
        assert torch.equal(seen(pack.text_layout, len(places)), wanted)


@given(shapes=SMALL)
def test_every_token_of_a_continuation_is_a_target_and_read_from_the_token_before_it(
    shapes: list[tuple[int, list[int]]],
) -> None:
    groups = groups_of(shapes)
    places = list(places_of(groups))
    pack: Pack = build_pack(groups)

    targets = [place for place in places if place.part > 0]
    assert pack.targets.tolist() == [place.token for place in targets]
    assert pack.lengths == tuple(len(c) for group in groups for c in group.continuations)
    for target, source in zip(targets, pack.source_index.tolist(), strict=True):
        before = places[source]
        last_of_prompt = len(groups[target.group].prompt.token_ids) - 1
        part, offset = (target.part, target.offset - 1) if target.offset else (0, last_of_prompt)
        assert (before.group, before.part, before.offset) == (target.group, part, offset)
    lasts = [places[i].token for i in pack.last_index.tolist()]
    assert lasts == [int(c[-1]) for group in groups for c in group.continuations]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shapes=MIXTURES, seed=st.integers(0, 99), budget=st.sampled_from([20, 60, 10_000]))
def test_any_mixture_packed_is_what_transformers_gives_one_by_one(
    model: Any, shapes: list[Shape], seed: int, budget: int
) -> None:
    groups = build_groups(shapes, seed)
    policy = build_policy(model, budget)

    ours = torch.cat(policy.detached_logprobs(policy.packs(groups)))

    with torch.no_grad():
        theirs = reference_logprobs(model, groups)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
