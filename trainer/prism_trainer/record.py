"""The record of use: which prompts and samples each iteration took, written with the checkpoint.

It travels like the metrics: what a killed attempt did after its last checkpoint is not in it, just
as it is not in the weights. `prism_trainer.audit` reads it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from prism_api.base import Contract, parse_json
from prism_trainer.distributed import Ranks
from prism_trainer.rollouts import Completion

RECORD_OBJECT, METRICS_OBJECT = "record.jsonl", "metrics.jsonl"
"""Objects of a checkpoint: what every iteration used, and how it went."""
_DIGEST_LENGTH = 16
"""Hexadecimal digits; a stage has far fewer than 2^32 samples."""


class SampleRecord(Contract):
    """One response."""

    seed: int
    """What it was drawn from."""
    version: int
    """Optimizer steps that the sampling weights had taken."""
    weights: str
    """Their digest, as the rollout server gave it; empty: the trainer's own weights."""
    tokens: int
    """Its length."""
    digest: str
    """Of its token ids."""


class GroupRecord(Contract):
    """One use of a prompt: a draw (`data/sampler.py`), and what was sampled for it."""

    position: int
    """Place in the stage's endless shuffled sequence."""
    draw: int
    """Row + rows x epoch."""
    samples: tuple[SampleRecord, ...]
    """In SFT none."""


class TrainedRecord(Contract):
    """A group that an optimizer step was made of."""

    position: int
    """Of the group."""
    digest: str
    """Of its samples' digests."""


class IterationRecord(Contract):
    """What one iteration drew and trained on, in all processes."""

    phase: str
    """Its name, such as `warmup`."""
    step: int
    """Within the phase; the first is 1."""
    attempt: int
    """Attempt of the stage that did it."""
    first: int
    """Position of the first prompt that it drew."""
    end: int
    """One past the last; prompts in between that are not in `drawn` were too long."""
    drawn: tuple[GroupRecord, ...]
    """By position."""
    trained: tuple[tuple[TrainedRecord, ...], ...]
    """Of each optimizer step, by position."""


G = TypeVar("G", GroupRecord, TrainedRecord)


@dataclass(frozen=True, eq=False)
class Use:
    """A drawn prompt and its responses in this process."""

    position: int
    draw: int
    completions: tuple[Completion, ...] = ()


@dataclass(frozen=True, eq=False)
class Usage:
    """What an iteration drew and trained on in this process."""

    positions: range
    """Of the prompts that all processes together drew."""
    drawn: Sequence[Use]
    """Without those that were too long."""
    trained: Sequence[Sequence[Use]]
    """For each optimizer step."""


class Record:
    """One line per iteration, without gaps or repeats, however often the stage was interrupted."""

    def __init__(self, text: str = "") -> None:
        self._lines = text.splitlines()

    def add(self, row: IterationRecord) -> None:
        """Append an iteration."""
        self._lines.append(row.model_dump_json(by_alias=True))

    def to_jsonl(self) -> str:
        """One JSON object per line."""
        return "".join(line + "\n" for line in self._lines)


def parse_record(text: str, source: str) -> list[IterationRecord]:
    """What `Record.to_jsonl` wrote; raises SpecError naming `source` and the line."""
    return [
        parse_json(IterationRecord, line, f"{source}:{number}")
        for number, line in enumerate(text.splitlines(), 1)
    ]


def gather_usage(
    ranks: Ranks, usage: Usage, phase: str, step: int, attempt: int
) -> IterationRecord:
    """The row of an iteration, in every process; `step` is 1-based."""
    mine = (
        [_group(use) for use in usage.drawn],
        [[_trained(use) for use in part] for part in usage.trained],
    )
    everyone = ranks.gather(mine)
    parts = zip(*(trained for _, trained in everyone), strict=True)
    return IterationRecord(
        phase=phase,
        step=step,
        attempt=attempt,
        first=usage.positions.start,
        end=usage.positions.stop,
        drawn=_sorted(drawn for drawn, _ in everyone),
        trained=tuple(_sorted(part) for part in parts),
    )


def group_digest(samples: Sequence[str]) -> str:
    """Of a group, from the digests of its samples."""
    return _digest("".join(samples).encode())


def _sorted(parts: Iterable[Sequence[G]]) -> tuple[G, ...]:
    return tuple(sorted(chain.from_iterable(parts), key=lambda entry: entry.position))


def _group(use: Use) -> GroupRecord:
    samples = tuple(map(_sample, use.completions))
    return GroupRecord(position=use.position, draw=use.draw, samples=samples)


def _trained(use: Use) -> TrainedRecord:
    digests = [_sample(completion).digest for completion in use.completions]
    return TrainedRecord(position=use.position, digest=group_digest(digests))


def _sample(completion: Completion) -> SampleRecord:
    return SampleRecord(
        seed=completion.seed,
        version=completion.weight_version,
        weights=completion.weights[:_DIGEST_LENGTH],
        tokens=len(completion.tokens),
        digest=_digest(completion.tokens.astype("<i8").tobytes()),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]
