"""Summary: the figures of a run, as report.json holds them and `prism compare` reads them."""

from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

from pydantic import ConfigDict, Field

from prism_api.base import Contract, parse_json
from prism_api.errors import SpecError, StoreError
from prism_api.names import STAGE_ORDER, StageKind
from prism_api.resources import Fraction, NonNegative, Positive
from prism_api.stage_config import StageResult
from prism_operator.report.artifacts import RunArtifacts

REPORT_FILE = "report.json"

Interval = tuple[Fraction, Fraction]


class StageSummary(Contract):
    """What one stage reached; the measured fields are null where nothing was evaluated."""

    model_config = ConfigDict(alias_generator=None)

    accuracy: Fraction | None
    """Share of held-out questions that the verifier accepts."""
    accuracy_ci95: Interval | None
    """Wilson interval of the accuracy."""
    caption_accuracy: Fraction | None
    format_rate: Fraction | None
    mean_response_tokens: NonNegative | None
    steps: Positive
    """Optimizer steps of the policy."""
    seconds: NonNegative
    checkpoint: str
    """Folder of the result in the store."""


class Summary(Contract):
    """The figures of a run; unlike in the rest of the contract, keys are snake_case everywhere."""

    model_config = ConfigDict(alias_generator=None)

    name: str
    uid: str
    seed: Annotated[int, Field(ge=0)]
    stages: dict[StageKind, StageSummary]
    heldout_size: Positive | None
    """Questions of the evaluation; null where nothing was evaluated."""
    peak_rss_bytes: Annotated[int, Field(ge=0)]
    wall_seconds: NonNegative

    @property
    def ordered(self) -> dict[StageKind, StageSummary]:
        """The stages in the order in which they ran."""
        return {kind: self.stages[kind] for kind in STAGE_ORDER if kind in self.stages}


def summarise(run: RunArtifacts) -> Summary:
    """The figures of a run's finished stages."""
    results = {kind: run.stages[kind].result for kind in STAGE_ORDER if kind in run.stages}
    sizes = [result.evaluation.samples for result in results.values() if result.evaluation]
    return Summary(
        name=run.name,
        uid=run.uid,
        seed=run.seed,
        stages={kind: _stage_summary(result) for kind, result in results.items()},
        heldout_size=sizes[-1] if sizes else None,
        peak_rss_bytes=run.peak_rss_bytes,
        wall_seconds=run.wall_seconds,
    )


def _stage_summary(result: StageResult) -> StageSummary:
    measured = result.evaluation
    return StageSummary(
        accuracy=measured.accuracy if measured else None,
        accuracy_ci95=wilson_interval(measured.correct, measured.samples) if measured else None,
        caption_accuracy=measured.caption_accuracy if measured else None,
        format_rate=measured.format_rate if measured else None,
        mean_response_tokens=measured.mean_response_tokens if measured else None,
        steps=result.steps,
        seconds=result.seconds,
        checkpoint=result.checkpoint.uri,
    )


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a rate (E. B. Wilson, JASA 22 (158), 1927, pages 209-212).

    Unlike the normal interval it stays within 0 and 1 and has a width at 0 and at all successes.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a rate")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, spread = successes / trials, z * z / trials
    centre = (rate + spread / 2) / (1 + spread)
    half = sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    # The bounds are exactly 0 and 1 at the ends; rounding must not say otherwise.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return low, high


def read_summary(path: Path) -> Summary:
    """Read report.json, given itself or its folder; raises StoreError naming what is wrong."""
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        text = file.read_bytes()
    except OSError as error:
        remedy = "give the output folder of a finished run"
        raise StoreError(f"{file}: cannot be read ({error.strerror}); {remedy}") from error
    try:
        return parse_json(Summary, text, str(file))
    except SpecError as error:
        raise StoreError(f"{error}\nprism run with its folder writes it anew") from None
