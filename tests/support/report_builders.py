"""Finished stages as a trainer would leave them: realistic in shape, made up in value."""

import base64
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from prism_api.checkpoint import CheckpointRef
from prism_api.names import RESULT_FILE, STAGE_ORDER, StageKind
from prism_api.stage_config import EvaluationResult, RunRef, StageResult
from prism_operator.report.artifacts import (
    METRICS_FILE,
    SAMPLES_FILE,
    MetricPoint,
    RunArtifacts,
    Sample,
    StageArtifacts,
)
from prism_operator.report.summary import Summary, summarise

UID = "0d8c1f2e-5b7a-4c1d-9a31-7f6f2f0f9b11"

HELDOUT = 768

CORRECT: Mapping[StageKind, int] = {"sft": 429, "align": 611, "rlvr": 702}
CAPTIONS: Mapping[StageKind, float] = {"sft": 0.67, "align": 0.903, "rlvr": 0.951}
STEPS: Mapping[StageKind, int] = {"sft": 400, "align": 40, "rlvr": 120}
WARMUP_STEPS = 40


def an_evaluation(correct: int = 600, samples: int = HELDOUT, **changes: Any) -> EvaluationResult:
    """An evaluation with so many right answers."""
    fields: dict[str, Any] = {
        "samples": samples,
        "correct": correct,
        "accuracy": correct / samples,
        "caption_accuracy": 0.9,
        "format_rate": 0.994,
        "mean_response_tokens": 42.3,
    }
    return EvaluationResult.model_validate(fields | changes, by_name=True)


def a_result(kind: StageKind = "sft", **changes: Any) -> StageResult:
    """The result of a stage; `evaluation=None` for a run without one."""
    fields: dict[str, Any] = {
        "run": RunRef(namespace="default", name="quickstart", uid=UID),
        "kind": kind,
        "attempt": 1,
        "config_hash": "a" * 64,
        "steps": STEPS[kind],
        "seconds": 104.2,
        "checkpoint": CheckpointRef(
            uri=f"file:///work/runs/quickstart/default/quickstart/{UID}/{kind}/a1/step-{STEPS[kind]}",
            digest="b" * 64,
        ),
        "evaluation": an_evaluation(CORRECT[kind], caption_accuracy=CAPTIONS[kind]),
    }
    return StageResult.model_validate(fields | changes, by_name=True)


def a_stage(kind: StageKind = "sft", **changes: Any) -> StageArtifacts:
    """A stage with curves and sample responses."""
    return StageArtifacts(
        result=a_result(kind, **changes), metrics=metrics_of(kind), samples=samples_of(kind)
    )


def a_run(
    stages: Sequence[StageKind] = STAGE_ORDER,
    name: str = "quickstart",
    correct: Mapping[StageKind, int] = CORRECT,
) -> RunArtifacts:
    """A finished run of those stages."""
    built = {
        kind: a_stage(
            kind, evaluation=an_evaluation(correct[kind], caption_accuracy=CAPTIONS[kind])
        )
        for kind in stages
    }
    return RunArtifacts(name, UID, 0, built, peak_rss_bytes=1_310_000_000, wall_seconds=411.0)


def a_summary(stages: Sequence[StageKind] = STAGE_ORDER, **changes: Any) -> Summary:
    """The figures of such a run."""
    return summarise(a_run(stages, **changes))


def write_stage(folder: Path, stage: StageArtifacts) -> None:
    """Leave a stage in a folder as a trainer does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT_FILE).write_text(stage.result.to_json())
    rows = [
        {"step": p.step, "phase": p.phase, "seconds": p.seconds, **p.values} for p in stage.metrics
    ]
    (folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / SAMPLES_FILE).write_text(json.dumps([vars(sample) for sample in stage.samples]))


def metrics_of(kind: StageKind) -> tuple[MetricPoint, ...]:
    """One point per step, noisy as real ones are."""
    noise = random.Random(kind)
    points = list(_warmup(noise)) if kind == "align" else []
    for step in range(1, STEPS[kind] + 1):
        done = step / STEPS[kind]
        values = _CURVES[kind](done, noise)
        points.append(MetricPoint(step, "train", 0.6 * step, values))
    return tuple(points)


def _warmup(noise: random.Random) -> Iterator[MetricPoint]:
    for step in range(1, WARMUP_STEPS + 1):
        done = step / WARMUP_STEPS
        values = _discriminator(0.3 + 1.6 * done, noise) | {
            "learning_rate": 1e-3 * min(1.0, 10 * done),
            "expert_load_max": 0.62 - 0.08 * done + noise.gauss(0, 0.01),
        }
        yield MetricPoint(step, "warmup", 0.3 * step, values)


def _discriminator(gap: float, noise: random.Random) -> dict[str, float]:
    return {
        "discriminator_loss": 0.7 * exp(-gap) + noise.gauss(0, 0.03),
        "discriminator_gap_caption": gap + noise.gauss(0, 0.2),
        "discriminator_gap_reasoning": 0.6 * gap + noise.gauss(0, 0.2),
        "discriminator_accuracy_caption": min(1.0, 0.5 + 0.22 * gap + noise.gauss(0, 0.04)),
        "discriminator_accuracy_reasoning": min(1.0, 0.5 + 0.12 * gap + noise.gauss(0, 0.04)),
    }


def _sft(done: float, noise: random.Random) -> dict[str, float]:
    return {
        "loss": 0.35 + 2.6 * exp(-9 * done) + noise.gauss(0, 0.02),
        "grad_norm": 0.4 + 2 * exp(-5 * done) + abs(noise.gauss(0, 0.1)),
        "learning_rate": 3e-3 * min(1.0, 10 * done) * (1 - max(0.0, done - 0.1)),
        "tokens_per_second": 21_000 + noise.gauss(0, 600),
    }


def _align(done: float, noise: random.Random) -> dict[str, float]:
    return _discriminator(1.9 - 1.2 * done, noise) | {
        "loss": noise.gauss(0, 0.02),
        "reward": -1.1 + 1.4 * done + noise.gauss(0, 0.1),
        "format_rate": 0.96 + 0.03 * done,
        "entropy": 0.42 - 0.15 * done + noise.gauss(0, 0.01),
        "response_tokens": 42 + noise.gauss(0, 0.3),
        "learning_rate": 3e-5,
        "grad_norm": 0.8 + abs(noise.gauss(0, 0.1)),
        "identical_segments": 0.5 + 0.25 * done,
        "expert_load_max": 0.54 + noise.gauss(0, 0.01),
    }


def _rlvr(done: float, noise: random.Random) -> dict[str, float]:
    accuracy = min(1.0, 0.78 + 0.14 * (1 - exp(-4 * done)) + noise.gauss(0, 0.03))
    return {
        "loss": noise.gauss(0, 0.01),
        "reward": 0.2 + 0.8 * accuracy,
        "accuracy": accuracy,
        "format_rate": min(1.0, 0.985 + noise.gauss(0, 0.005)),
        "entropy": 0.28 - 0.12 * done + noise.gauss(0, 0.01),
        "response_tokens": 42 + noise.gauss(0, 0.3),
        "learning_rate": 1e-4,
        "grad_norm": 0.3 + abs(noise.gauss(0, 0.05)),
        "clip_fraction": abs(noise.gauss(0, 0.002)),
        "informative_groups": 22 - 12 * done + noise.gauss(0, 1),
        "tokens_per_second": 27_000 + noise.gauss(0, 900),
    }


_CURVES = {"sft": _sft, "align": _align, "rlvr": _rlvr}


def a_picture(digits: Sequence[int] = (3, 7)) -> str:
    """A small grey PNG of those digits, base64."""
    image = Image.new("L", (32 * len(digits), 32), 16)
    pen = ImageDraw.Draw(image)
    for place, digit in enumerate(digits):
        pen.text((32 * place + 9, 2), str(digit), fill=235, font_size=24)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


_READ_AS = {3: 8, 4: 9, 5: 6}
"""How the policy misreads digits before it is aligned."""


def samples_of(kind: StageKind, count: int = 10) -> tuple[Sample, ...]:
    """The same questions for every stage; later stages get more of them right."""
    made = random.Random("questions")
    return tuple(
        _sample(kind, index, made.randrange(10), made.randrange(10)) for index in range(count)
    )


def _sample(kind: StageKind, index: int, left: int, right: int) -> Sample:
    clumsy = kind == "sft" or (kind == "align" and index % 4 == 0)
    seen = [_READ_AS.get(digit, digit) if clumsy else digit for digit in (left, right)]
    caption = f"<caption>\n- left digit: {seen[0]}\n- right digit: {seen[1]}\n</caption>"
    think = f"<think>\n{seen[0]} + {seen[1]} = {sum(seen)}\n</think>"
    answer = f"<answer>{sum(seen)}</answer>" if index != 5 or kind != "sft" else f"So: {sum(seen)}"
    return Sample(
        id=f"heldout-{index:03}",
        prompt="What is the sum of the two digits?",
        image_png_base64=a_picture((left, right)),
        response="\n".join((caption, think, answer)),
        ground_truth=str(left + right),
        correct=sum(seen) == left + right and answer.startswith("<"),
        reference_caption=f"<caption>\n- left digit: {left}\n- right digit: {right}\n</caption>",
    )
