"""What a played rank 0 says: its progress, and the result of its stage."""

import hashlib
import math
from dataclasses import dataclass

from played.script import Exit, Part
from prism_api.base import parse_json
from prism_api.checkpoint import CheckpointRef
from prism_api.errors import SpecError
from prism_api.exit_codes import ExitCode
from prism_api.names import RESULT_FILE
from prism_api.reporting import ProgressReport, StageReport
from prism_api.stage_config import EvaluationResult, StageConfig, StageResult

_EVALUATION = EvaluationResult(
    samples=100,
    correct=75,
    accuracy=0.75,
    caption_accuracy=None,
    format_rate=1.0,
    mean_response_tokens=42.0,
)


def last_words(stage_json: str, part: Part, seconds: float) -> Exit:
    """How rank 0 ends that was done: with its StageReport, or with the code for a config that it
    cannot read."""
    try:
        config = parse_json(StageConfig, stage_json, "stage.json")
    except SpecError as error:
        return Exit(ExitCode.BAD_CONFIG, str(error))
    report = report_of(config, part.steps, seconds)
    return Exit(ExitCode.DONE, report.model_dump_json(by_alias=True))


def report_of(config: StageConfig, steps: int, seconds: float) -> StageReport:
    """The proof that a stage under a config is done, as the trainer writes it."""
    folder = f"{config.stage_uri}/a{config.attempt}"
    identity = f"{config.run.uid}/{config.kind}/{config.attempt}"
    digest = hashlib.sha256(identity.encode()).hexdigest()
    result = StageResult(
        run=config.run,
        kind=config.kind,
        attempt=config.attempt,
        config_hash=config.config_hash,
        steps=max(1, steps),
        seconds=seconds,
        checkpoint=CheckpointRef(uri=f"{folder}/checkpoints/{steps:08}", digest=digest),
        evaluation=_EVALUATION if config.evaluation else None,
    )
    written = hashlib.sha256(result.to_json().encode()).hexdigest()
    return StageReport(uri=f"{folder}/{RESULT_FILE}", digest=written, result=result)


@dataclass(frozen=True)
class Playing:
    """A trainer that runs."""

    run_uid: str
    stage: str
    attempt: int
    part: Part
    began_s: float
    """By the monotonic clock."""


def progress_of(playing: Playing, now_s: float) -> ProgressReport:
    """The newest iteration of a trainer at a time of the monotonic clock."""
    part = playing.part
    share = _share(now_s - playing.began_s, part.run_s)
    step = min(part.steps, math.floor(share * part.steps))
    if part.hangs_at is not None:
        step = min(step, part.hangs_at)
    return ProgressReport(
        stage=playing.stage,  # type: ignore[arg-type]  # pydantic checks what the label says
        attempt=playing.attempt,
        uid=playing.run_uid,
        phase="train",
        step=step,
        steps=part.steps,
        eta_seconds=max(0.0, part.run_s * (1 - share)) if math.isfinite(part.run_s) else None,
        metrics={"loss": 1.0 / (1 + step), "reward": share},
    )


def _share(passed_s: float, whole_s: float) -> float:
    return 1.0 if whole_s <= 0 else min(1.0, passed_s / whole_s)
