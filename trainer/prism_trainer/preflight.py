"""Checks stages before any of them starts: whether this trainer can serve their settings, and every
row of their data.

`python -m prism_trainer.preflight CONFIG.json...` says everything that it finds wrong. It imports
no torch, so that a mistake shows within seconds and before anything is loaded.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prism_api.errors import FieldProblem, PrismError, SpecError
from prism_api.exit_codes import ExitCode
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.resources import DataSource, ModelSource
from prism_api.stage_config import StageConfig
from prism_api.stages import AlignStage, Discriminator, RlvrStage, SftStage
from prism_trainer.attempt import read_config
from prism_trainer.data.lengths import TeacherLimit
from prism_trainer.data.rows import Need, check_dataset
from prism_trainer.discriminator.start import start_problems
from prism_trainer.model_files import model_config, model_file

_UPDATES = ("auto", "reload")
"""How this trainer brings weights to rollout servers."""


def main() -> None:
    """Check stages and exit with the worst code: 0, 64 (bad config) or 65 (bad data)."""
    parser = argparse.ArgumentParser(
        prog="python -m prism_trainer.preflight",
        description="Check settings and data of stages before any of them starts.",
        epilog="Exit codes: 0 all is well, 64 bad config, 65 bad data.",
    )
    parser.add_argument(
        "configs", type=Path, nargs="+", metavar="CONFIG", help="StageConfig as JSON"
    )
    die_with_parent(inherited_ancestor())
    errors = find_errors(parser.parse_args().configs)
    for error in errors:
        sys.stderr.write(f"{error}\n")
    sys.exit(min((error.exit_code for error in errors), default=ExitCode.DONE))


def find_errors(paths: Sequence[Path]) -> list[PrismError]:
    """What is wrong with the stages whose configs these files hold.

    Of a data set only the first bad row; it is read once however many stages use it.
    """
    errors: list[PrismError] = []
    uses: dict[DataUse, None] = {}
    for path in paths:
        with _noted(errors):
            config = read_config(path)
            uses |= dict.fromkeys(data_of(config))
            check_supported(config)
    for use in uses:
        with _noted(errors):
            check = use.limit.checker() if use.limit else None
            check_dataset(use.sources, use.need, check)
    return errors


@contextmanager
def _noted(errors: list[PrismError]) -> Iterator[None]:
    try:
        yield
    except PrismError as error:
        errors.append(error)


@dataclass(frozen=True)
class DataUse:
    """A data set, and what a stage needs of its rows."""

    sources: tuple[DataSource, ...]
    need: Need
    limit: TeacherLimit | None = None
    """Of the teacher's texts, where there is one and the tokenizer is on this machine."""


def data_of(config: StageConfig) -> Iterator[DataUse]:
    """What a stage reads: its own data, and the held-out rows."""
    match config.stage:
        case SftStage(data=sources):
            yield DataUse(sources, "response")
        case AlignStage() as stage:
            need: Need = "teacher_truth" if stage.gating else "teacher"
            yield DataUse((stage.data,), need, _teacher_limit(config.model, stage))
            pairs = stage.discriminator.warmup.data
            if pairs is not None and stage.objective == "adversarial":
                yield DataUse((pairs,), "pair")
        case RlvrStage(data=source):
            yield DataUse((source,), "truth")
    if config.evaluation is not None:
        yield DataUse((config.evaluation.data,), "truth")


def _teacher_limit(model: ModelSource, stage: AlignStage) -> TeacherLimit | None:
    tokenizer = model_file(model.uri, "tokenizer.json")
    if tokenizer is None:
        return None
    return TeacherLimit(tokenizer, stage.max_response_tokens, stage.objective == "supervised")


def check_supported(config: StageConfig) -> None:
    """Raise SpecError for settings that this trainer cannot serve, all of them."""
    stage, own = config.stage, f"stages.{config.kind}"
    problems = []
    rollout = config.rollout
    if rollout is not None and rollout.backend == "vllm" and rollout.weight_update not in _UPDATES:
        problem = f"{rollout.weight_update} is not available to this trainer"
        problems.append(FieldProblem(f"{own}.rollout.weightUpdate", problem, "set auto or reload"))
    if config.workers.engine.startswith("deepspeed"):
        problems += _deepspeed_problems(config, own)
    if isinstance(stage, AlignStage) and stage.objective == "adversarial":
        problems += _discriminator_problems(stage.discriminator, config.model)
    if problems:
        raise SpecError(problems)


def _deepspeed_problems(config: StageConfig, own: str) -> list[FieldProblem]:
    engine, stage, remedy = config.workers.engine, config.stage, "set workers.engine: fsdp2"
    problems = []
    if find_spec("deepspeed") is None:
        problem = f"{engine} needs the package deepspeed, which is not installed"
        problems.append(FieldProblem(f"{own}.workers.engine", problem, f"install it, or {remedy}"))
    if isinstance(stage, AlignStage) and stage.offload_optimizer == "always":
        problem = f"is not available with {engine}"
        problems.append(FieldProblem(f"{own}.offloadOptimizer", problem, remedy))
    return problems


def _discriminator_problems(settings: Discriminator, policy: ModelSource) -> Iterator[FieldProblem]:
    """As far as the files are on this machine; the rest is said when they are loaded."""
    start = model_config(settings.model.uri) if settings.model else {}
    if start:
        yield from start_problems(start, model_config(policy.uri), settings)


if __name__ == "__main__":
    main()
