"""What each step of a stage should draw and train on, from the config and the data's length alone.

Stated anew for the audit, so that a mistake of the stages' own arithmetic shows; pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from prism_api.resources import on_servers
from prism_api.stage_config import StageConfig
from prism_api.stages import AlignStage, RlvrStage, SftStage
from prism_trainer.seeds import derive_seed


@dataclass(frozen=True)
class PlannedStep:
    """One iteration."""

    phase: str
    number: int
    """Within the phase, 0-based."""
    order: str
    """Which shuffled order it draws from (`data/sampler.py`)."""
    rows: int
    """Of the data that it draws from."""
    prompts: int
    """Prompts that it draws at a time."""
    updates: int
    """Optimizer steps of the policy."""
    config: StageConfig
    rounds: range = range(1, 2)
    """How many times it may draw."""
    responses: int = 0
    """To each prompt."""
    parts: int = 1
    """Optimizer steps that divide its groups."""
    selected: int | None = None
    """Groups that it trains on; none: all that it draws."""

    def seeds(self, draw: int, round_number: int) -> list[int]:
        """Of the samples of a draw; a server counts on from the first one's."""
        kind, seed = self.config.kind, self.config.seed
        use = (self.number, round_number) if kind == "rlvr" else (self.phase, self.number)
        if on_servers(self.config.rollout):
            first = derive_seed(seed, kind, *use, draw, 0)
            return [first + n for n in range(self.responses)]
        return [derive_seed(seed, kind, *use, draw, n) for n in range(self.responses)]


def planned_steps(
    config: StageConfig, data_size: int, pairs_size: int | None = None
) -> list[PlannedStep]:
    """All iterations of the stage; the sizes are numbers of rows, of its data and of the file of
    pairs that its warm-up reads, if it does."""
    match config.stage:
        case SftStage() as stage:
            epochs = max(1, data_size * (stage.epochs or 1) // stage.batch_size)
            count = stage.steps or epochs
            return [
                PlannedStep("train", n, "sft", data_size, stage.batch_size, 1, config)
                for n in range(count)
            ]
        case AlignStage() as stage:
            return [
                *_warm_up(stage, config, data_size, pairs_size),
                *_game(stage, config, data_size),
            ]
        case RlvrStage() as stage:
            return list(_rlvr(stage, config, data_size))


def _warm_up(
    stage: AlignStage, config: StageConfig, data_size: int, pairs_size: int | None
) -> Iterator[PlannedStep]:
    """Its students are sampled, unless a file has them."""
    warmup = stage.discriminator.warmup
    responses = 1 if pairs_size is None else 0
    rows = data_size if pairs_size is None else pairs_size
    count = max(1, rows // warmup.batch_size) if warmup.steps is None else warmup.steps
    if stage.objective == "adversarial":
        for n in range(count):
            size = warmup.batch_size
            yield PlannedStep("warmup", n, "warmup", rows, size, 0, config, responses=responses)


def _game(stage: AlignStage, config: StageConfig, rows: int) -> Iterator[PlannedStep]:
    responses = stage.rollouts_per_prompt if stage.objective == "adversarial" else 0
    size = stage.batch_size
    for n in range(stage.steps):
        yield PlannedStep("train", n, "align", rows, size, 1, config, responses=responses)


def _rlvr(stage: RlvrStage, config: StageConfig, rows: int) -> Iterator[PlannedStep]:
    processes, prompts, rounds, selected = config.workers.world_size, stage.batch_size, 1, None
    if stage.samples_dynamically:
        prompts = stage.generation_batch_size or 3 * stage.batch_size
        rounds = stage.max_generation_rounds
        selected = stage.batch_size // processes * processes
    for n in range(stage.steps):
        yield PlannedStep(
            "train",
            n,
            "rlvr",
            rows,
            prompts,
            stage.mini_batches,
            config,
            range(0 if stage.samples_dynamically else 1, rounds + 1),
            stage.rollouts_per_prompt,
            stage.mini_batches,
            selected,
        )
