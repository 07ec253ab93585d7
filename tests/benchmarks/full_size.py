"""Runs a few steps of every stage at a published size, on random weights: does it fit, how fast?

    python tests/benchmarks/full_size.py --size 4B --opponent 2B --stages sft,align,rlvr OUT
    python tests/benchmarks/full_size.py --compare OUT      # a tiny model: this GPU against the CPU

Stages are the trainer's own, as `prism run` starts them, on one process; checkpoints are left out.
What the policy samples is timed and then replaced by texts in the format (`sized_inputs`). Every
step's metrics, speed and memory go to OUT/STAGE.jsonl. Exit code 1: a comparison failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prism_api.resources import DataSource, ModelSource, Precision, ResolvedWorkers, Rollout
from prism_api.run import AnyStage
from prism_api.stage_config import StageConfig
from prism_trainer import distributed
from prism_trainer.stages.program import Metrics
from prism_trainer.stages.run import build_context, build_program

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from sized_inputs import Size, StandIns, write_model, write_rows
from stage_builders import align_stage, rlvr_stage, sft_stage, stage_config

STEPS = 3
GIB = 1 << 30
COMPARED = ("loss", "discriminator_loss", "grad_norm", "discriminator_grad_norm", "reward")
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.1}
"""Largest relative difference of a metric between GPU and CPU, over all steps; losses and rewards
of alignment pass through a normalisation of scores that are close to each other."""


Line = dict[str, Any]


def stages(folder: Path, opponent: Size | None, limits: dict[str, int]) -> dict[str, AnyStage]:
    """The three stages with published batches, but for shorter responses and warm-up."""
    demonstrations = DataSource(uri=f"file://{folder}/sft.parquet")
    data = DataSource(uri=f"file://{folder}/prompts.parquet")
    common: dict[str, Any] = {**limits, "checkpoint_every_steps": 100, "steps": STEPS}
    discriminator: dict[str, Any] = {
        "warmup": {"steps": STEPS, "batch_size": 32},
        "routing": "segment",
        "learning_rate": 1e-5,
    }
    if opponent:
        discriminator["model"] = ModelSource(uri=f"file://{folder}/model-{opponent}")
    sampled = {"rollouts_per_prompt": 16, "learning_rate": 1e-6, **common}
    return {
        "sft": sft_stage(demonstrations, **{**common, "batch_size": 16, "learning_rate": 1e-5}),
        "align": align_stage(data, discriminator=discriminator, **sampled),
        "rlvr": rlvr_stage(data, algorithm="grpo", **{**sampled, "batch_size": 8}),
    }


def config_of(stage: AnyStage, folder: Path, size: Size, precision: Precision, gpus: int) -> Any:
    """The stage on one process, sampling by itself."""
    base = stage_config(stage, folder / f"model-{size}", folder / "out", engine="fsdp2")
    workers = ResolvedWorkers(
        engine="fsdp2", precision=precision, gpus_per_replica=gpus, threads_per_process=4
    )
    return base.model_copy(
        update={"workers": workers, "rollout": Rollout(backend="inprocess", batch_size=256)}
    )


def run(config: StageConfig, work: Path) -> Iterator[Line]:
    """Metrics of every step of every phase, with its name."""
    work.mkdir(parents=True, exist_ok=True)
    ranks = distributed.join(config.workers)
    try:
        started = time.monotonic()
        context = build_context(config, ranks, work)
        longest = config.stage.max_response_tokens
        client = StandIns(context.client, context.encoder, longest)
        context = replace(context, client=client)
        program = build_program(context)
        yield {"loading_seconds": time.monotonic() - started, **savings_of(context.savings)}
        version = 0
        for phase in program.phases:
            for step in range(phase.steps):
                yield {"phase": phase.name, **one_step(program, client, phase.name, step)}
                version += phase.policy_steps
                client.update_weights(version)
    finally:
        distributed.leave()


def savings_of(savings: Any) -> Metrics:
    """Which of them were chosen, as numbers."""
    return {name: float(value) for name, value in vars(savings).items()}


def one_step(program: Any, client: StandIns, phase: str, step: int) -> Metrics:
    """One iteration, with its speed and memory."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    sampling, sampled, started = client.seconds, client.tokens, time.monotonic()
    metrics: Metrics = program.iterate(phase, step).metrics
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    own = client.seconds - sampling
    return metrics | {
        "step_seconds": seconds,
        "sampling_seconds": own,
        "sampled_tokens": float(client.tokens - sampled),
        "update_seconds": seconds - own,
        "update_tokens_per_second": metrics.get("tokens", 0.0) / (seconds - own),
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB if on_gpu else 0.0,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / GIB if on_gpu else 0.0,
    }


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Steps of the chosen stages at full size, one line each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = [arguments.size] + ([arguments.opponent] if arguments.opponent else [])
    for size in sizes:
        if not (folder / f"model-{size}" / "config.json").exists():
            write_model(folder / f"model-{size}", size, device, visual_tokens=1024)
    torch.cuda.empty_cache()
    limits = {
        "max_prompt_tokens": 2048,
        "max_response_tokens": arguments.response_tokens,
        "max_tokens_per_pack": arguments.pack_tokens,
    }
    write_rows(folder, 256, 800, arguments.response_tokens - 32)
    for kind in arguments.stages.split(","):
        stage = stages(folder, arguments.opponent, limits)[kind]
        gpus = int(device.type == "cuda")
        config = config_of(stage, folder, arguments.size, "bf16" if gpus else "fp32", gpus)
        with (folder / f"{kind}.jsonl").open("w") as lines:
            for metrics in run(config, folder / f"work-{kind}"):
                print(json.dumps({"stage": kind} | metrics), file=lines, flush=True)
                say(f"{kind} {shown(metrics)}")


def shown(metrics: Line) -> str:
    """A line for people."""
    parts = [f"{k}={v:.4g}" if isinstance(v, float) else f"{v}" for k, v in metrics.items()]
    return " ".join(parts)


def say(line: str) -> None:
    """To whoever watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compare(folder: Path) -> bool:
    """Whether a tiny model has the same metrics on this GPU as on the CPU, in every stage."""
    write_model(folder / "model-tiny", "tiny", torch.device("cpu"), visual_tokens=64)
    write_rows(folder, 96, 200, 160)
    limits = {"max_prompt_tokens": 256, "max_response_tokens": 192, "max_tokens_per_pack": 2048}
    fine = True
    for kind, stage in stages(folder, None, limits).items():
        expected = list(run(config_of(stage, folder, "tiny", "fp32", 0), folder / "work"))[1:]
        for precision, tolerance in TOLERANCE.items():
            config = config_of(stage, folder, "tiny", precision, 1)
            found = list(run(config, folder / "work"))[1:]
            furthest_of = {name: furthest(found, expected, name) for name in COMPARED}
            worst = {name: value for name, value in furthest_of.items() if value is not None}
            fine &= worst != {} and max(worst.values()) <= tolerance
            say(f"{kind} {precision} (at most {tolerance}): {shown(worst)}")
    return fine


def furthest(found: list[Line], expected: list[Line], name: str) -> float | None:
    """The largest difference of a metric over the steps that have it."""
    pairs = zip(found, expected, strict=True)
    return max((relative(a[name], b[name]) for a, b in pairs if name in b), default=None)


def relative(value: float, expected: float) -> float:
    """Difference against the expected size, small numbers against 0.01."""
    return abs(value - expected) / max(abs(expected), 1e-2)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where models, rows and results go")
    parser.add_argument("--size", default="4B", choices=("tiny", "2B", "4B", "8B"))
    parser.add_argument(
        "--opponent", default=None, choices=("2B", "4B"), help="default: the policy"
    )
    parser.add_argument("--stages", default="sft,align,rlvr")
    parser.add_argument("--response-tokens", type=int, default=1024)
    parser.add_argument("--pack-tokens", type=int, default=10240)
    parser.add_argument("--compare", action="store_true", help="a tiny model, GPU against CPU")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.compare:
        return 0 if compare(folder) else 1
    measure(arguments, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
