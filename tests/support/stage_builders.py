"""Short stages on the digits' model: data small enough to learn by heart, configs, runs, results.

The policy that alignment and RLVR start from has learned one thing: to answer in the format, with
"1" or "2" at random.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from torch import Tensor

from prism_api.algorithms import resolve_rlvr
from prism_api.resources import (
    DataSource,
    Engine,
    Evaluation,
    ModelSource,
    ResolvedWorkers,
    Retention,
    Rollout,
)
from prism_api.run import AnyStage
from prism_api.stage_config import RunRef, StageConfig
from prism_api.stages import AlignStage, Discriminator, RlvrStage, SftStage, Stages, Warmup
from prism_trainer.stages import run as run_module
from prism_trainer.stages.run import run_stage

Row = dict[str, Any]
MAX_TOKENS: dict[str, Any] = {
    "max_prompt_tokens": 64,
    "max_response_tokens": 40,
    "max_tokens_per_pack": 4096,
}
UNVERIFIABLE = "__EMPTY__"
"""A gold answer that the verifier cannot use."""


def answer_text(caption: int, think: int, answer: int) -> str:
    """A response in the format."""
    blocks = {"caption": f"- {caption}", "think": think, "answer": answer}
    return "\n".join(f"<{tag}>\n{content}\n</{tag}>" for tag, content in blocks.items())


def teacher_parts(row: Row) -> Row:
    """A teacher who always says the same."""
    return with_text(row, "teacher", answer_text(7, 1, 1))


def with_text(row: Row, who: str, text: str) -> Row:
    """The row with a teacher's or student's text, whole and in its two segments."""
    caption, _, reasoning = text.partition("\n<think>")
    segments = {f"{who}_caption": caption, f"{who}_cot": "<think>" + reasoning}
    return {**row, **segments, f"{who}_response": text}


def pairs_of(rows: Sequence[Row]) -> list[Row]:
    """The teacher who always says the same, and students who say something else."""
    return [
        with_text(teacher_parts(row), "student", answer_text(8, 2 + i % 3, 2 + i % 2))
        for i, row in enumerate(rows)
    ]


def with_truth(row: Row, truth: str) -> Row:
    """The row with another gold answer."""
    return {**row, "reward_model": {"ground_truth": truth, "style": "rule"}}


def with_long_prompt(row: Row) -> Row:
    """The row with a question beyond the length limit of the stages below."""
    turns = [{**turn, "content": turn["content"] + " and" * 80} for turn in row["prompt"]]
    return {**row, "prompt": turns}


def read_rows(digits: Path, count: int, start: int = 0) -> list[Row]:
    """Prompts with pictures from the quickstart's data."""
    table = pq.read_table(digits / "rlvr.parquet")
    rows: list[Row] = table.slice(start, count).to_pylist()
    return rows


def demonstrations(rows: Sequence[Row]) -> list[Row]:
    """The format, with digits at random."""
    rng = np.random.default_rng(0)
    return [
        {
            "id": row["id"],
            "images": row["images"],
            "messages": [
                *row["prompt"],
                {
                    "role": "assistant",
                    "content": answer_text(
                        int(rng.integers(7, 9)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
                    ),
                },
            ],
        }
        for row in rows
    ]


def write_rows(path: Path, rows: Sequence[Row]) -> DataSource:
    """A Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return DataSource(uri=f"file://{path}")


def sft_stage(data: DataSource, **changes: Any) -> SftStage:
    """A few steps at a rate that shows."""
    settings: dict[str, Any] = {
        "steps": 6,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "checkpoint_every_steps": 2,
        "train_vision_tower": True,
        **MAX_TOKENS,
        **changes,
    }
    return SftStage(data=(data,), **settings)


def align_stage(data: DataSource, **changes: Any) -> AlignStage:
    """Three steps of warm-up and three of the game."""
    discriminator: dict[str, Any] = {
        "learning_rate": 1e-3,
        "warmup": Warmup(steps=3, batch_size=8, learning_rate=1e-3),
        **changes.pop("discriminator", {}),
    }
    settings: dict[str, Any] = {
        "steps": 3,
        "batch_size": 4,
        "rollouts_per_prompt": 4,
        "learning_rate": 1e-4,
        "checkpoint_every_steps": 2,
        **MAX_TOKENS,
        **changes,
    }
    return AlignStage(data=data, discriminator=Discriminator(**discriminator), **settings)


def rlvr_stage(data: DataSource, **changes: Any) -> RlvrStage:
    """Four steps on four prompts each, resolved as the planner does it."""
    settings: dict[str, Any] = {
        "steps": 4,
        "batch_size": 4,
        "rollouts_per_prompt": 4,
        "learning_rate": 1e-3,
        "checkpoint_every_steps": 2,
        **MAX_TOKENS,
        **changes,
    }
    return resolve_rlvr(RlvrStage(data=data, **settings))


def stage_config(
    stage: AnyStage,
    model: Path,
    folder: Path,
    seed: int = 0,
    replicas: int = 1,
    evaluation: Evaluation | None = None,
    engine: Engine = "replicated",
) -> StageConfig:
    """A stage on its own, as the planner would write it."""
    kinds: dict[type, Any] = {SftStage: "sft", AlignStage: "align", RlvrStage: "rlvr"}
    kind = kinds[type(stage)]
    return StageConfig(
        run=RunRef(namespace="default", name="short", uid="00000000-0000"),
        kind=kind,
        attempt=1,
        seed=seed,
        model=ModelSource(uri=f"file://{model}"),
        init_from=None,
        stage_uri=f"file://{folder}/store/{kind}",
        stages=Stages.model_construct(None, **{kind: stage}),
        workers=ResolvedWorkers(replicas=replicas, engine=engine, precision="fp32"),
        rollout=Rollout(backend="inprocess"),
        evaluation=evaluation,
        retention=Retention(keep_last=2),
    )


class Crash(Exception):
    """Stands for a process that dies between two iterations."""


def stop_after(iterations: int) -> Callable[[], bool]:
    """Asks for a stop once so many iterations have been done."""
    asked = iter(range(iterations + 1))
    return lambda: next(asked) == iterations


def crash_after(iterations: int) -> Callable[[], bool]:
    """Dies once so many iterations have been done."""
    asked = iter(range(iterations + 1))

    def on_asking() -> bool:
        if next(asked) == iterations:
            raise Crash
        return False

    return on_asking


@dataclass(frozen=True)
class Finished:
    """What a finished stage left in its store."""

    attempt: Path

    @property
    def checkpoint(self) -> Path:
        """The last one."""
        steps = self.attempt.glob("step-*")
        return max(steps, key=lambda path: int(path.name.removeprefix("step-")))

    @property
    def model(self) -> Path:
        """The exported policy."""
        return self.checkpoint / "export"

    def weights(self) -> dict[str, Tensor]:
        """Of the exported policy."""
        weights: dict[str, Tensor] = load_file(self.model / "model.safetensors")
        return weights

    def tensors(self) -> dict[str, bytes]:
        """Every tensor file of the last checkpoint: policy, optimizers, discriminator."""
        files = sorted(self.checkpoint.rglob("*.safetensors"))
        return {str(path.relative_to(self.checkpoint)): path.read_bytes() for path in files}

    def history(self) -> list[Row]:
        """Metrics of every iteration, without what a clock decides."""
        lines = (self.attempt / "metrics.jsonl").read_text().splitlines()
        clock = ("seconds", "tokens_per_second")
        return [{k: v for k, v in json.loads(s).items() if k not in clock} for s in lines]

    def column(self, name: str, phase: str = "train") -> list[float]:
        """One metric over the steps of a phase."""
        return [row[name] for row in self.history() if row["phase"] == phase and name in row]

    def result(self) -> Row:
        """The stage's result."""
        result: Row = json.loads((self.attempt / "result.json").read_text())
        return result


def run_to_end(config: StageConfig, folder: Path) -> Finished:
    """Run a stage in this process, until it is done."""
    assert run_attempt(config, folder)
    return Finished(Path(config.stage_uri.removeprefix("file://")) / f"a{config.attempt}")


def run_attempt(
    config: StageConfig, folder: Path, stop_requested: Callable[[], bool] = lambda: False
) -> bool:
    """Run one attempt in this process; `stop_requested` is asked before every iteration."""
    work = folder / f"work-{config.kind}-a{config.attempt}"
    work.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "_stop", lambda _: stop_requested)
        return run_stage(config, work)
