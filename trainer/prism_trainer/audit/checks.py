"""What a stage's record must be if every step, prompt and sample was used exactly once; pure."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from prism_api.checkpoint import CheckpointManifest
from prism_api.resources import on_servers
from prism_api.stage_config import StageConfig
from prism_trainer.audit.plan import PlannedStep, planned_steps
from prism_trainer.data.sampler import draw_at
from prism_trainer.metrics import Row
from prism_trainer.record import GroupRecord, IterationRecord, group_digest


@dataclass(frozen=True)
class Evidence:
    """What a stage has left."""

    config: StageConfig
    data_size: int
    """Rows of its data."""
    pairs_size: int | None
    """Lines of the file that the discriminator's warm-up reads, if it reads one."""
    manifest: CheckpointManifest
    """Of its newest checkpoint."""
    rows: tuple[IterationRecord, ...]
    """The record in it."""
    history: tuple[Row, ...]
    """The metrics in it."""

    @cached_property
    def planned(self) -> list[PlannedStep]:
        """What the config asks for, to the last step."""
        return planned_steps(self.config, self.data_size, self.pairs_size)

    @property
    def pairs(self) -> Iterator[tuple[IterationRecord, PlannedStep]]:
        """What was done, beside what was asked for."""
        return zip(self.rows, self.planned, strict=False)

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done."""
        return len(self.rows) == len(self.planned)


def find_problems(evidence: Evidence) -> list[str]:
    """Everything in the record that should not be so; pure.

    Where the steps themselves are not as planned, only that is said.
    """
    return list(_steps(evidence)) or [text for check in _CHECKS for text in check(evidence)]


def _steps(evidence: Evidence) -> Iterator[str]:
    """Every step once and in order: in the record, the metrics and the weights."""
    done = [(row.phase, row.step) for row in evidence.rows]
    wanted = [(step.phase, step.number + 1) for step in evidence.planned]
    for place, (phase, number) in enumerate(done):
        if place >= len(wanted) or (phase, number) != wanted[place]:
            asked = "nothing" if place >= len(wanted) else "step {1} of {0}".format(*wanted[place])
            yield f"line {place + 1} is step {number} of {phase}, {asked} was to come"
            return
    if [(row["phase"], row["step"]) for row in evidence.history] != done:
        yield "record and metrics are of different steps"
    if evidence.manifest.step != len(done):
        yield f"the checkpoint is of step {evidence.manifest.step}, the record has {len(done)}"
    taken = sum(step.updates for _, step in evidence.pairs)
    if evidence.manifest.weight_version != taken:
        have = evidence.manifest.weight_version
        yield f"the checkpoint's weights have taken {have} optimizer steps, the record has {taken}"


def _prompts(evidence: Evidence) -> Iterator[str]:
    """Every place in the order of prompts once, without gaps; the over-long ones are counted."""
    ends: Counter[str] = Counter()
    for (row, step), metrics in zip(evidence.pairs, evidence.history, strict=True):
        if row.first != ends[step.order]:
            yield f"{_name(row)} begins with prompt {row.first}, {ends[step.order]} was to come"
        ends[step.order] = row.end
        rounds, rest = divmod(row.end - row.first, step.prompts)
        if rest or rounds not in step.rounds:
            yield f"{_name(row)} has drawn {row.end - row.first} prompts"
        places = [group.position for group in row.drawn]
        if places != sorted(set(places) & set(range(row.first, row.end))):
            yield f"{_name(row)}: prompts repeated, out of order or of another step"
        missing = row.end - row.first - len(places)
        if missing != metrics["dropped_samples"]:
            dropped = metrics["dropped_samples"]
            yield f"{_name(row)}: {missing} prompts are missing, {dropped} were counted as too long"


def _epochs(evidence: Evidence) -> Iterator[str]:
    """No row twice in an epoch, and in the order that the seed gives."""
    seed = evidence.config.seed
    seen: set[tuple[str, int]] = set()
    for row, step in evidence.pairs:
        for group in row.drawn:
            if (step.order, group.draw) in seen:
                epoch, index = divmod(group.draw, step.rows)
                yield f"{_name(row)} has row {index} again in epoch {epoch + 1}"
            seen.add((step.order, group.draw))
            if group.draw != draw_at(step.rows, seed, step.order, group.position):
                yield f"{_name(row)}: prompt {group.position} is not the one in the seed's order"


def _samples(evidence: Evidence) -> Iterator[str]:
    """Every sample of every prompt once, drawn from the seed that is its alone."""
    for row, step in evidence.pairs:
        for group in row.drawn:
            wanted = step.seeds(group.draw, (group.position - row.first) // step.prompts)
            if [sample.seed for sample in group.samples] != wanted:
                yield f"{_name(row)}: prompt {group.position} has other samples than it should"
    seeds = Counter(s.seed for row in evidence.rows for g in row.drawn for s in g.samples)
    for seed, count in seeds.items():
        if count > 1:
            yield f"the sample of seed {seed} occurs {count} times"


def _weights(evidence: Evidence) -> Iterator[str]:
    """Sampled from the weights that the step found: their version, and as published then."""
    served = on_servers(evidence.config.rollout)
    digests: dict[tuple[int, int], str] = {}
    version = 0
    for row, step in evidence.pairs:
        for sample in (sample for group in row.drawn for sample in group.samples):
            if sample.version != version:
                yield f"{_name(row)}: a sample of weights {sample.version} instead of {version}"
            if bool(sample.weights) != served:
                yield f"{_name(row)}: a sample {'without' if served else 'with'} a weights digest"
            published = digests.setdefault((row.attempt, version), sample.weights)
            if sample.weights != published:
                yield f"{_name(row)}: samples of weights {version} with different digests"
        version += step.updates
    if served and len(set(digests.values())) < len(digests):
        yield "weights of different versions have the same digest"


def _training(evidence: Evidence) -> Iterator[str]:
    """Every group in one optimizer step at most, as it was sampled, at once or in the next step."""
    trained: set[tuple[str, int]] = set()
    before: dict[tuple[str, int], GroupRecord] = {}
    for row, step in evidence.pairs:
        drawn = {(step.order, group.position): group for group in row.drawn}
        uses = [(step.order, use.position, use.digest) for part in row.trained for use in part]
        for order, position, digest in uses:
            group = (before | drawn).get((order, position))
            if group is None:
                yield f"{_name(row)} trains on prompt {position}, drawn long before or never"
            elif digest != group_digest([sample.digest for sample in group.samples]):
                yield f"{_name(row)} trains on other samples of prompt {position} than were drawn"
            if (order, position) in trained:
                yield f"{_name(row)} trains on prompt {position} again"
            trained.add((order, position))
        if len(row.trained) != step.parts:
            yield f"{_name(row)} took {len(row.trained)} optimizer steps instead of {step.parts}"
        wanted = len(drawn) if step.selected is None else step.selected
        if len(uses) != wanted:
            yield f"{_name(row)} trains on {len(uses)} prompts instead of {wanted}"
        before = drawn


_CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    _prompts,
    _epochs,
    _samples,
    _weights,
    _training,
)


def _name(row: IterationRecord) -> str:
    return f"step {row.step} of {row.phase}"
