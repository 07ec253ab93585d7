"""Models of published size with random weights, rows of ragged lengths, and samples in the format.

No weights can be fetched here, and random ones write nothing that a stage can learn from. So the
model's own samples are drawn, timed and thrown away, and texts in the format stand in for them.
"""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.random import Generator
from PIL import Image
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from prism_api.model_shape import PUBLISHED_SHAPES, ModelShape
from prism_trainer.data.encoder import Encoder
from prism_trainer.digits.processor import build_processor
from prism_trainer.digits.tiny_model import build_model
from prism_trainer.digits.tokenizer import build_tokenizer
from prism_trainer.rollouts import Completion, Request, RolloutClient, SamplingParams
from prism_trainer.seeds import numpy_generator
from published_configs import config_of

Row = dict[str, Any]
Size = Literal["tiny", "2B", "4B", "8B"]
VISUAL_TOKEN_PX = 32**2
TRUTH = "1"


def write_model(folder: Path, size: Size, device: torch.device, visual_tokens: int) -> None:
    """A checkpoint with random weights and the quickstart's tokenizer, whose ids any vocabulary
    has."""
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    most_px = visual_tokens * VISUAL_TOKEN_PX
    processor.image_processor.size = {"shortest_edge": VISUAL_TOKEN_PX, "longest_edge": most_px}
    if size == "tiny":
        model = build_model(tokenizer, seed=0)
    else:
        config = _config(PUBLISHED_SHAPES[f"hf://Qwen/Qwen3-VL-{size}-Instruct"], tokenizer)
        torch.manual_seed(0)
        with device:
            model = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _config(shape: ModelShape, tokenizer: Any) -> Qwen3VLConfig:
    config = config_of(shape)
    ids = tokenizer.get_vocab()
    config.image_token_id, config.video_token_id = ids["<|image_pad|>"], ids["<|video_pad|>"]
    config.vision_start_token_id = ids["<|vision_start|>"]
    config.vision_end_token_id = ids["<|vision_end|>"]
    config.text_config.eos_token_id = tokenizer.eos_token_id
    return config


def write_rows(folder: Path, count: int, longest_prompt: int, longest_response: int) -> None:
    """`sft.parquet` and `prompts.parquet` (for the other stages): every fourth row has no picture,
    the others have one of any size."""
    rng = np.random.default_rng(0)
    rows = [_row(number, rng, longest_prompt, longest_response) for number in range(count)]
    for name, other in (("sft", "prompt"), ("prompts", "messages")):
        table = pa.Table.from_pylist(rows).drop_columns([other])
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=16)


def _row(number: int, rng: Generator, longest_prompt: int, longest_response: int) -> Row:
    has_image = number % 4 > 0
    question = digits(int(rng.integers(8, longest_prompt // 4)), rng)
    turn = {"role": "user", "content": ("<image>" if has_image else "") + question}
    text = answer(ragged(rng, longest_response), TRUTH, rng)
    caption, _, reasoning = text.partition("\n<think>")
    return {
        "id": f"row-{number}",
        "images": [{"bytes": _picture(rng), "path": None}] if has_image else [],
        "prompt": [turn],
        "messages": [turn, {"role": "assistant", "content": text}],
        "teacher_caption": caption,
        "teacher_cot": "<think>" + reasoning,
        "reward_model": {"ground_truth": TRUTH, "style": "rule"},
    }


def _picture(rng: Generator) -> bytes:
    height, width = (int(edge) for edge in rng.integers(64, 1024, 2))
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


def ragged(rng: Generator, longest: int) -> int:
    """A length between a sixteenth of the longest and the longest, as many short as long ones by
    ratio."""
    return int(longest * 2.0 ** -rng.uniform(0, 4))


def digits(count: int, rng: Generator) -> str:
    """One token each."""
    return "".join(map(str, rng.integers(0, 10, count)))


def answer(tokens: int, value: str, rng: Generator) -> str:
    """A response in the format of about so many tokens."""
    caption = digits(tokens // 3, rng)
    think = digits(max(1, tokens * 2 // 3 - 30), rng)
    return (
        f"<caption>\n- {caption}\n</caption>\n<think>\n{think}\n</think>\n"
        f"<answer>\n{value}\n</answer>"
    )


class StandIns:
    """A RolloutClient whose samples are replaced by texts in the format, right every other time."""

    def __init__(self, client: RolloutClient, encoder: Encoder, longest: int) -> None:
        self._client, self._encoder, self._longest = client, encoder, longest
        self.seconds, self.tokens = 0.0, 0
        """Of the client's own sampling."""
        self._version = 0

    def update_weights(self, version: int) -> None:
        """See RolloutClient."""
        self._version = version
        self._client.update_weights(version)

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> list[list[Completion]]:
        """See RolloutClient."""
        started = time.monotonic()
        drawn = self._client.generate(requests, params)
        self.seconds += time.monotonic() - started
        self.tokens += sum(len(c.tokens) for group in drawn for c in group)
        return [[self._stand_in(seed) for seed in request.seeds] for request in requests]

    def _stand_in(self, seed: int) -> Completion:
        rng = numpy_generator(seed)
        value = str(rng.integers(1, 3))
        tokens = self._encoder.response(answer(ragged(rng, self._longest - 32), value, rng))
        return Completion(tokens, np.zeros(len(tokens), np.float32), True, self._version)
