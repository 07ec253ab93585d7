"""One packed forward gives what transformers gives sample by sample: logits and gradients."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model_builders import (
    IMAGE,
    MIXED,
    Shape,
    build_groups,
    build_policy,
    gradients_of,
    packed,
    reference_logits,
    reference_logprobs,
    relative_difference,
)
from prism_trainer.engine.packing import Group, build_pack, split_into_packs
from prism_trainer.engine.policy import hidden_states

TWO_ROWS = Shape(((1, 4, 4),), 3, (5,))
LAYOUTS = {
    "one text": (Shape((), 6, (5,)),),
    "text group with a shared prompt": (Shape((), 6, (5, 9, 1)),),
    "one image": (Shape(((1, 2, 2),), 0, (4,)),),
    "image of two rows": (TWO_ROWS,),
    "three images in one prompt": (Shape(((1, 2, 8), (1, 6, 2), (1, 4, 4)), 4, (6, 3)),),
    "prompts without responses": (Shape(((1, 2, 4),), 4, ()), Shape((), 7, ())),
    "all kinds mixed": MIXED,
}


@pytest.fixture(params=LAYOUTS.values(), ids=list(LAYOUTS))
def groups(request: pytest.FixtureRequest) -> list[Group]:
    return build_groups(request.param)


def packed_logits(model: Any, groups: Sequence[Group]) -> Tensor:
    """Logits of every token of one pack of the groups."""
    logits: Tensor = model.lm_head(hidden_states(model.model, build_pack(groups)))
    return logits


def expected_logits(model: Any, groups: Sequence[Group]) -> Tensor:
    """transformers' logits in the order of a pack: prompt, then each continuation."""
    parts = []
    for group in groups:
        size = len(group.prompt.token_ids)
        empty = np.empty(0, dtype=np.int64)
        parts.append(reference_logits(model, group.prompt, empty))
        parts += [reference_logits(model, group.prompt, c)[size:] for c in group.continuations]
    return torch.cat(parts)


def test_logits_of_every_packed_token_equal_transformers(model: Any, groups: list[Group]) -> None:
    with torch.no_grad():
        ours, theirs = packed_logits(packed(model), groups), expected_logits(model, groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert theirs.std() > 0.5


def test_packed_logits_in_single_precision_equal_transformers(model: Any) -> None:
    model = packed(model).float()
    groups = build_groups()
    with torch.no_grad():
        ours = packed_logits(model, groups)
        model.set_attn_implementation("eager")
        theirs = expected_logits(model, groups)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("max_tokens", [10_000, 60, 30], ids=["one pack", "some", "many"])
def test_logprobs_do_not_depend_on_the_division_into_packs(model: Any, max_tokens: int) -> None:
    groups = build_groups()
    policy = build_policy(model, max_tokens)
    packs = policy.packs(groups)
    ours = torch.cat(policy.detached_logprobs(packs, temperature=0.7))
    with torch.no_grad():
        theirs = reference_logprobs(model, groups, temperature=0.7)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    parts = sum(len(pack) for pack in split_into_packs(groups, max_tokens))
    assert (parts > len(groups)) == (max_tokens < 60)


def test_gradients_of_all_parameters_equal_transformers(model: Any, groups: list[Group]) -> None:
    groups = [*groups, *build_groups([Shape((), 3, (4,))], seed=1)]
    count = sum(len(c) for group in groups for c in group.continuations)
    weights = torch.randn(count, generator=torch.Generator().manual_seed(1))
    policy = build_policy(model)

    def ours() -> Tensor:
        (pack,) = policy.packs(groups)
        logprobs, _ = policy.logprobs(pack)
        return (logprobs * weights).sum()

    theirs = gradients_of(model, lambda: (reference_logprobs(model, groups) * weights).sum())
    differences = relative_difference(gradients_of(policy.model, ours), theirs)
    assert max(differences.values()) < 1e-5, max(differences.items(), key=lambda item: item[1])
    has_image = any(group.prompt.grids for group in groups if group.continuations)
    still = [name for name, gradient in theirs.items() if not gradient.any()]
    assert bool(still) != has_image, "images reach every parameter, text all but the vision tower"


def test_gradients_over_divided_groups_add_up_to_the_whole(model: Any) -> None:
    groups = build_groups()
    theirs = gradients_of(model, lambda: reference_logprobs(model, groups).sum())
    policy = build_policy(model, max_tokens=30)

    def ours() -> Tensor:
        return torch.stack([policy.logprobs(p)[0].sum() for p in policy.packs(groups)]).sum()

    differences = relative_difference(gradients_of(policy.model, ours), theirs)
    assert max(differences.values()) < 1e-5


def test_a_response_may_contain_the_image_placeholder(model: Any) -> None:
    """transformers refuses such a sample, so the reference reads a word with the same embedding."""
    twin = packed(model)
    twin.set_attn_implementation("sdpa")
    word = 7
    with torch.no_grad():
        table = twin.get_input_embeddings().weight
        table[word] = table[IMAGE]
        for shape in (TWO_ROWS, Shape((), 4, (6, 4))):
            (group,) = build_groups([shape])
            written = tuple(
                np.where(np.arange(len(c)) % 3 == 1, IMAGE, c) for c in group.continuations
            )
            policy = build_policy(model)
            ours = policy.detached_logprobs(policy.packs([replace(group, continuations=written)]))
            for tokens, logprobs in zip(
                written, ours[0].split([len(c) for c in written]), strict=True
            ):
                read = np.where(tokens == IMAGE, word, tokens)
                logits = reference_logits(twin, group.prompt, read)[-len(tokens) - 1 : -1]
                expected = logits.log_softmax(-1).gather(1, torch.from_numpy(tokens)[:, None])
                torch.testing.assert_close(
                    logprobs.double(), expected.squeeze(1), rtol=1e-5, atol=1e-5
                )


def test_responses_of_a_group_do_not_see_each_other(model: Any) -> None:
    (group,) = build_groups([Shape(((1, 2, 4),), 3, (6, 6))])
    first, second = group.continuations
    other = Group(group.prompt, (first, (second + 1) % 50))
    policy = build_policy(model)
    one, two = (policy.detached_logprobs(policy.packs([g]))[0][:6] for g in (group, other))
    assert torch.equal(one, two)
