"""What the discriminator compares: one prompt's teacher text with the policy's responses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prism_trainer.discriminator.routing import CAPTION, REASONING
from prism_trainer.engine.packing import Group, Prompt, Tokens

Segments = tuple[Tokens, Tokens]
"""Caption and reasoning of one response, both ending with the end-of-turn token: teacher and
student are tokenised alike and read at the same place."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One prompt, its teacher, and the responses that have the format."""

    prompt: Prompt
    teacher: Segments
    students: tuple[Segments, ...]
    dropout_seed: int
    students_before: int = 0
    """Students of this prompt in the parts before, if the comparison was divided."""

    @cached_property
    def text_numbers(self) -> NDArray[np.int64]:
        """[1 + students, 2] which text each caption and reasoning is, the teacher's first; texts
        are numbered as they first occur."""
        numbers: dict[tuple[int, bytes], int] = {}
        return np.array(
            [
                [numbers.setdefault((k, segment.tobytes()), len(numbers)) for k, segment in pair]
                for pair in map(enumerate, (self.teacher, *self.students))
            ],
            dtype=np.int64,
        )

    @cached_property
    def first_uses(self) -> NDArray[np.int64]:
        """[texts] where each text first occurs in the flattened `text_numbers`."""
        return np.unique(self.text_numbers, return_index=True)[1]

    @cached_property
    def group(self) -> Group:
        """As one packed group that holds every text once, in the order of their numbers.

        The reasoning does not see the caption: both are continuations of the prompt.
        """
        segments = [s for pair in (self.teacher, *self.students) for s in pair]
        texts = tuple(segments[i] for i in self.first_uses)
        return Group(
            self.prompt, texts, tuple((CAPTION, REASONING)[i % 2] for i in self.first_uses)
        )

    @cached_property
    def token_weights(self) -> NDArray[np.int64]:
        """[tokens of the group] how many tokens of the undivided comparison each one stands for.

        A text counts as often as it is used; what divided parts repeat counts in the first of them.
        """
        is_first = self.students_before == 0
        used = self.text_numbers if is_first else self.text_numbers[1:]
        uses = np.bincount(used.ravel(), minlength=len(self.first_uses))
        lengths = [len(self.prompt.token_ids), *(len(text) for text in self.group.continuations)]
        return np.repeat([int(is_first), *uses], lengths)


def chunks(comparison: Comparison, max_tokens: int) -> list[Comparison]:
    """Divide a comparison that exceeds a pack; every part keeps prompt and teacher."""
    lengths = [len(text) for text in comparison.group.continuations]
    teacher, *students = [set(pair) for pair in comparison.text_numbers.tolist()]
    room = max_tokens - len(comparison.prompt.token_ids)
    parts: list[list[Segments]] = [[]]
    held = teacher
    for student, texts in zip(comparison.students, students, strict=True):
        held = held | texts
        if parts[-1] and sum(lengths[n] for n in held) > room:
            parts.append([])
            held = teacher | texts
        parts[-1].append(student)
    before = [sum(len(part) for part in parts[:i]) for i in range(len(parts))]
    return [
        replace(comparison, students=tuple(part), students_before=count)
        for part, count in zip(parts, before, strict=True)
    ]


_NONE = np.empty(0, np.int64)


def packed_text_numbers(members: Sequence[Comparison]) -> NDArray[np.int64]:
    """[segments] of a pack of several groups, or none: which of its continuations each segment
    is."""
    starts = np.cumsum([0, *(len(member.first_uses) for member in members)])
    numbers = [m.text_numbers.ravel() + start for m, start in zip(members, starts, strict=False)]
    return np.concatenate([_NONE, *numbers])
