"""Checks stages before any of them starts: whether this trainer can serve their settings, the
headers of their models' files, and every row of their data.

`python -m prism_trainer.preflight CONFIG.json...` says everything that it finds wrong. It imports
no torch, so that a mistake shows within seconds and before anything is loaded.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from prism_api.errors import FieldProblem, PrismError, SpecError
from prism_api.exit_codes import ExitCode
from prism_api.process import die_with_parent, inherited_ancestor
from prism_api.resources import DataSource, ModelSource, on_servers
from prism_api.rollout import IMAGES_PER_PROMPT
from prism_api.stage_config import StageConfig
from prism_api.stages import AlignStage, Discriminator, LoraModule, RlvrStage, SftStage
from prism_api.uris import local_path, scheme
from prism_trainer.attempt import read_config
from prism_trainer.data.model_files import (
    ModelFiles,
    check_model_files,
    check_reads_the_same,
    read_model_files,
)
from prism_trainer.data.rows import Need, check_dataset
from prism_trainer.data.text_limit import TextLimit
from prism_trainer.discriminator.start import check_start, start_problems
from prism_trainer.model_headers import check_model
from prism_trainer.model_tensors import EXPERT_LAYERS, MIXTURE

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

    Of a data set only the first bad row; models and data are read once however many stages use
    them.
    """
    errors: list[PrismError] = []
    configs: list[StageConfig] = []
    for path in paths:
        with _noted(errors):
            configs.append(read_config(path))
            check_supported(configs[-1])
    models: dict[str, ModelFiles] = {}
    for uri in dict.fromkeys(config.model.uri for config in configs):
        with _noted(errors):
            models[uri] = read_model_files(uri)
            check_model_files(models[uri])
    for uri in filter(_is_local, models):
        with _noted(errors):
            check_model(local_path(uri))
    uses: dict[DataUse, TextLimit | None] = {}
    for config in configs:
        files = models.get(config.model.uri)
        uses |= dict.fromkeys(data_of(config), text_limit(config, files))
        with _noted(errors):
            check_lengths(config, files)
        with _noted(errors):
            _check_discriminator(config, files)
    served = {use for config in configs if on_servers(config.rollout) for use in data_of(config)}
    for use, limit in uses.items():
        with _noted(errors):
            most_images = IMAGES_PER_PROMPT if use in served else None
            check_dataset(use.sources, use.need, limit, most_images)
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


def data_of(config: StageConfig) -> Iterator[DataUse]:
    """What a stage reads: its own data, and the held-out rows."""
    match config.stage:
        case SftStage(data=sources):
            yield DataUse(sources, "response")
        case AlignStage(data=source, gating=gating, objective=objective):
            yield DataUse((source,), "teacher_truth" if gating else "teacher")
            pairs = config.stage.discriminator.warmup.data
            if pairs is not None and objective == "adversarial":
                yield DataUse((pairs,), "pair")
        case RlvrStage(data=source):
            yield DataUse((source,), "truth")
    if config.evaluation is not None:
        yield DataUse((config.evaluation.data,), "truth")


def _is_local(uri: str) -> bool:
    return scheme(uri) == "file"


def text_limit(config: StageConfig, files: ModelFiles | None) -> TextLimit | None:
    """How long a teacher's text may be, beside a prompt of any length that is allowed; only where
    no setting limits it."""
    stage = config.stage
    if files is None or not isinstance(stage, AlignStage):
        return None
    room = files.max_positions - stage.max_prompt_tokens
    reason = f"{files.max_positions} positions of the model less maxPromptTokens"
    return TextLimit(files.tokenizer, room, reason)


def _check_discriminator(config: StageConfig, files: ModelFiles | None) -> None:
    """The model of its own that it starts from: whole, and a reader of the policy's tokens."""
    stage = config.stage
    if not isinstance(stage, AlignStage) or stage.objective == "supervised":
        return
    if stage.discriminator.model is not None:
        uri = stage.discriminator.model.uri
        if _is_local(uri):
            check_start(local_path(uri))
        if files is not None:
            check_reads_the_same(files, uri)


def check_lengths(config: StageConfig, files: ModelFiles | None) -> None:
    """Raise SpecError for length limits that together exceed the model's context, if it is
    known."""
    if files is None:
        return
    prompt, own = config.stage.max_prompt_tokens, f"stages.{config.kind}"
    limits = {f"{own}.maxResponseTokens": config.stage.max_response_tokens}
    if config.evaluation is not None:
        limits["evaluation.maxResponseTokens"] = config.evaluation.max_response_tokens
    problems = [
        FieldProblem(
            path,
            f"{response} and {own}.maxPromptTokens {prompt} exceed the model's "
            f"{files.max_positions} positions ({files.folder}/config.json)",
            f"give at most {files.max_positions - prompt}"
            if prompt < files.max_positions
            else "lower maxPromptTokens",
        )
        for path, response in limits.items()
        if prompt + response > files.max_positions
    ]
    if problems:
        raise SpecError(problems)


def check_supported(config: StageConfig) -> None:
    """Raise SpecError for settings that this trainer cannot serve, all of them."""
    stage, own = config.stage, f"stages.{config.kind}"
    problems = []
    rollout = config.rollout
    if on_servers(rollout) and rollout.weight_update not in _UPDATES:
        problem = f"{rollout.weight_update} is not available to this trainer"
        problems.append(FieldProblem(f"{own}.rollout.weightUpdate", problem, "set auto or reload"))
    if config.workers.engine.startswith("deepspeed"):
        problems += _deepspeed_problems(config, own)
    problems += _lora_problems(config, own)
    if isinstance(stage, AlignStage) and stage.objective == "adversarial":
        problems += _discriminator_problems(stage.discriminator, config.model)
    if problems:
        raise SpecError(problems)


def _lora_problems(config: StageConfig, own: str) -> Iterator[FieldProblem]:
    """As far as the model's config is on this machine; the rest is said when it is loaded."""
    model, lora = _model_config(config.model) or {}, config.stage.lora
    if lora is None or model.get("model_type") != MIXTURE:
        return
    absent = [name for name in lora.target_modules if name in EXPERT_LAYERS]
    if absent:
        problem = f"names {', '.join(absent)}, but the experts of a mixture are no linear layers"
        remedy = f"give {', '.join(m for m in get_args(LoraModule) if m not in EXPERT_LAYERS)}"
        yield FieldProblem(f"{own}.lora.targetModules", problem, remedy)


def _deepspeed_problems(config: StageConfig, own: str) -> list[FieldProblem]:
    engine, stage, remedy = config.workers.engine, config.stage, "set workers.engine: fsdp2"
    problems = []
    if find_spec("deepspeed") is None:
        problem = f"{engine} needs the package deepspeed, which is not installed"
        install = "pip install 'deepspeed>=0.19,<0.20'"
        problems.append(FieldProblem(f"{own}.workers.engine", problem, f"{install}, or {remedy}"))
    if isinstance(stage, AlignStage) and stage.offload_optimizer == "always":
        problem = f"is not available with {engine}"
        problems.append(FieldProblem(f"{own}.offloadOptimizer", problem, remedy))
    return problems


def _discriminator_problems(settings: Discriminator, policy: ModelSource) -> Iterator[FieldProblem]:
    """As far as the files are on this machine; the rest is said when they are loaded."""
    start = _model_config(settings.model or policy)
    if start is not None:
        yield from start_problems(start, settings)


def _model_config(model: ModelSource) -> dict[str, Any] | None:
    if scheme(model.uri) != "file":
        return None
    try:
        config = json.loads((local_path(model.uri) / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


if __name__ == "__main__":
    main()
