"""Compares in-process generation with transformers' generate on the same prompts, weights and CPU.

Both decode one batch of sequences to the same length (the end token is switched off), greedily and
by sampling, both warmed up, in turns; medians are compared. transformers runs its best simple
configuration: sdpa attention, key-value cache, one left-padded batch. Greedy tokens must be equal;
where they part, the two best tokens must be closer than a rounding error.

Exit codes: 0 fine, 1 tokens differ, 2 slower than --require.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils import logging

from prism_api.resources import DataSource
from prism_trainer.data.encoder import Encoder
from prism_trainer.data.rows import Dataset
from prism_trainer.digits.__main__ import main as make_digits
from prism_trainer.distributed import Ranks
from prism_trainer.engine.packing import Prompt, Tokens
from prism_trainer.engine.policy import Policy
from prism_trainer.generation.generator import InProcessGenerator
from prism_trainer.models import load_policy
from prism_trainer.rollouts import Request, SamplingParams

TIE = 1e-4
"""Greedy tokens may part where the two best logits are closer than this."""
NO_END = -1


@dataclass(frozen=True)
class Comparison:
    """Tokens per second of both, medians over the repetitions."""

    mode: str
    ours: float
    transformers: float
    ratio: float


class Batch:
    """The prompts, as either side takes them."""

    def __init__(self, prompts: Sequence[Prompt], samples: int, pad_id: int) -> None:
        self.prompts, self.samples = prompts, samples
        self.requests = [Request(prompt, tuple(range(samples))) for prompt in prompts]
        self.sequences = [prompt for prompt in prompts for _ in range(samples)]
        self.width = max(len(prompt.token_ids) for prompt in prompts)
        self.padded = self._padded(pad_id)

    def _padded(self, pad_id: int) -> dict[str, torch.Tensor]:
        """One left-padded batch for transformers."""
        shape = (len(self.sequences), self.width)
        ids, mask, types = torch.full(shape, pad_id), torch.zeros(shape), torch.zeros(shape)
        for i, prompt in enumerate(self.sequences):
            start = self.width - len(prompt.token_ids)
            ids[i, start:] = torch.from_numpy(prompt.token_ids)
            mask[i, start:] = 1
            types[i, start:] = torch.from_numpy(prompt.is_image).float()
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "mm_token_type_ids": types.int()}
        pixels = [p.pixel_values for p in self.sequences if p.pixel_values is not None]
        if pixels:
            grids = [grid for p in self.sequences for grid in p.grids]
            inputs |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids)}
        return inputs


@dataclass(frozen=True)
class Rivals:
    """Both generators on the same weights; each decodes the batch to [sequences, tokens]."""

    generator: InProcessGenerator
    model: Any
    batch: Batch
    tokens: int

    def ours(self, temperature: float) -> Tokens:
        """In-process generation."""
        params = SamplingParams(self.tokens, temperature)
        groups = self.generator.generate(self.batch.requests, params)
        return np.stack([c.tokens for group in groups for c in group])

    def transformers(self, temperature: float) -> Tokens:
        """transformers' generate, unrestricted sampling."""
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        self.model.model.rope_deltas = None
        with torch.no_grad():
            output = self.model.generate(
                **self.batch.padded,
                max_new_tokens=self.tokens,
                use_cache=True,
                eos_token_id=None,
                **(sampling if temperature else {"do_sample": False}),
            )
        tokens: Tokens = output[:, self.batch.width :].numpy()
        return tokens


def main() -> int:
    """Run the comparison; returns the exit code."""
    arguments = _parser().parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with ExitStack() as stack:
        inputs = arguments.inputs
        if inputs is None:
            inputs = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "digits"
            make_digits(["--out", str(inputs)])
        rivals = _rivals(arguments, inputs)
    say(
        f"{len(rivals.batch.sequences)} sequences ({arguments.prompts} prompts x "
        f"{arguments.samples}), {arguments.tokens} tokens each, {arguments.threads} thread(s)"
    )
    broken = _differences(rivals)
    comparisons = [_compare(rivals, mode, arguments.repeats) for mode in ("greedy", "sampling")]
    worst = min(c.ratio for c in comparisons)
    if arguments.json:
        document = {"comparisons": [asdict(c) for c in comparisons], "equal_tokens": not broken}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    if broken:
        say(f"NOT EQUAL: {broken} sequences part where the best token is clear")
        return 1
    if worst < arguments.require:
        say(f"TOO SLOW: {worst:.2f} times transformers, required {arguments.require}")
        return 2
    return 0


def _rivals(arguments: argparse.Namespace, inputs: Path) -> Rivals:
    folder = arguments.model or inputs / "model"
    loaded = load_policy(f"file://{folder.absolute()}", False)
    encoder = Encoder(loaded.processor, loaded.model.config.image_token_id)
    data = Dataset([DataSource(uri=f"file://{inputs.absolute()}/heldout.parquet")], "truth")
    prompts = encoder.prompts([data[i] for i in range(arguments.prompts)])
    batch = Batch(prompts, arguments.samples, loaded.processor.tokenizer.pad_token_id)
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa")
    model.generation_config.eos_token_id = None
    policy = Policy(loaded.model.eval(), Ranks(), "fp32", 1 << 20)
    generator = InProcessGenerator(policy, NO_END, len(batch.sequences))
    return Rivals(generator, model.eval(), batch, arguments.tokens)


def _differences(rivals: Rivals) -> int:
    """Sequences whose greedy tokens part for another reason than a tie."""
    ours, theirs = rivals.ours(0.0), rivals.transformers(0.0)
    parted = np.flatnonzero((ours != theirs).any(axis=1))
    margins = [_margin(rivals, int(i), ours[i], theirs[i]) for i in parted]
    ties = sum(margin < TIE for margin in margins)
    say(f"greedy tokens: {len(ours) - len(parted)} of {len(ours)} sequences equal, {ties} ties")
    return len(parted) - ties


def _margin(rivals: Rivals, index: int, ours: Tokens, theirs: Tokens) -> float:
    """How far apart the two chosen tokens' logits are where the sequences part."""
    place = int(np.flatnonzero(ours != theirs)[0])
    prompt = rivals.batch.sequences[index]
    ids = torch.from_numpy(np.concatenate([prompt.token_ids, theirs[:place]]))[None]
    types = torch.zeros_like(ids, dtype=torch.int32)
    types[0, : len(prompt.is_image)] = torch.from_numpy(prompt.is_image).int()
    images = {}
    if prompt.pixel_values is not None:
        thw = torch.tensor(prompt.grids)
        images = {"pixel_values": prompt.pixel_values, "image_grid_thw": thw}
    rivals.model.model.rope_deltas = None
    with torch.no_grad():
        logits = rivals.model(input_ids=ids, mm_token_type_ids=types, **images).logits[0, -1]
    return float((logits[ours[place]] - logits[theirs[place]]).abs())


def _compare(rivals: Rivals, mode: str, repeats: int) -> Comparison:
    temperature = 1.0 if mode == "sampling" else 0.0
    sides: tuple[Callable[[float], Tokens], ...] = (rivals.ours, rivals.transformers)
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for side, times in zip(sides, seconds, strict=True):
            started = time.perf_counter()
            tokens = side(temperature)
            if repeat:  # the first round warms up
                times.append(time.perf_counter() - started)
            assert tokens.shape == (len(rivals.batch.sequences), rivals.tokens), "same lengths"
    count = len(rivals.batch.sequences) * rivals.tokens
    ours, theirs = (count / statistics.median(times) for times in seconds)
    spread = [f"{count / max(t):,.0f}-{count / min(t):,.0f}" for t in seconds]
    say(
        f"{mode}: in-process {ours:,.0f} tokens/s ({spread[0]}), transformers {theirs:,.0f} "
        f"({spread[1]}), ratio {ours / theirs:.2f}"
    )
    return Comparison(mode, ours, theirs, ours / theirs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--prompts", default=32, **number, help="different prompts (32)")
    parser.add_argument("--samples", default=8, **number, help="sequences per prompt (8)")
    parser.add_argument("--tokens", default=42, **number, help="new tokens per sequence (42)")
    parser.add_argument("--repeats", default=5, **number, help="timed repetitions (5)")
    parser.add_argument("--threads", default=1, **number, help="CPU threads (1)")
    parser.add_argument(
        "--require", type=float, default=0.0, metavar="X", help="fail below this ratio (0)"
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="DIR", help="quickstart's inputs; absent: made on the spot"
    )
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="exported model; absent: the inputs' random one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
