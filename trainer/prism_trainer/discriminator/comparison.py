"""What the discriminator compares: one prompt's teacher text with the policy's responses."""

from dataclasses import dataclass, replace

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

    def group(self) -> Group:
        """As one packed group: teacher first, then students, each as caption and reasoning.

        The reasoning does not see the caption: both are continuations of the prompt.
        """
        responses = (self.teacher, *self.students)
        segments = tuple(segment for pair in responses for segment in pair)
        return Group(self.prompt, segments, (CAPTION, REASONING) * len(responses))


def chunks(comparison: Comparison, max_tokens: int) -> list[Comparison]:
    """Divide a comparison that exceeds a pack; every part keeps prompt and teacher."""
    start_tokens = replace(comparison, students=()).group().num_tokens
    parts: list[list[Segments]] = [[]]
    used = start_tokens
    for student in comparison.students:
        size = sum(len(segment) for segment in student)
        if parts[-1] and used + size > max_tokens:
            parts.append([])
            used = start_tokens
        parts[-1].append(student)
        used += size
    before = [sum(len(part) for part in parts[:i]) for i in range(len(parts))]
    return [
        replace(comparison, students=tuple(part), students_before=count)
        for part, count in zip(parts, before, strict=True)
    ]
