"""Sample responses for the page: cut into their blocks, and each question's across the stages."""

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from prism_api.names import STAGE_ORDER, StageKind
from prism_operator.report.artifacts import Sample, StageArtifacts

BLOCK_LABELS = {
    "caption": "caption",
    "think": "think",
    "answer": "answer",
    "": "outside the blocks",
}

_BLOCK = re.compile(r"<(caption|think|answer)>(.*?)</\1>", re.DOTALL)

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

SMALL_PIXELS = 160
"""Images up to this width are enlarged, in whole pixels."""


@dataclass(frozen=True)
class Block:
    """A part of a response; without a tag it is text that belongs to no block."""

    tag: str
    text: str

    @property
    def label(self) -> str:
        """How the page calls it."""
        return BLOCK_LABELS[self.tag]


@dataclass(frozen=True)
class Picture:
    """A PNG as the page embeds it."""

    data_uri: str
    width: int
    """Pixels on the page."""
    enlarged: bool


@dataclass(frozen=True)
class Answer:
    """What one stage's policy said to a question."""

    stage: StageKind
    correct: bool
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Question:
    """One held-out question with the answers of all stages that were asked."""

    id: str
    prompt: str
    picture: Picture | None
    ground_truth: str
    reference: tuple[Block, ...]
    """The reference caption; empty without one."""
    answers: tuple[Answer, ...]


def split_blocks(response: str) -> tuple[Block, ...]:
    """The caption, think and answer blocks of a response and the text around them, in order."""
    blocks: list[Block] = []
    end = 0
    for match in _BLOCK.finditer(response):
        blocks += [Block("", response[end : match.start()]), Block(match[1], match[2])]
        end = match.end()
    blocks.append(Block("", response[end:]))
    return tuple(Block(b.tag, b.text.strip()) for b in blocks if b.tag or b.text.strip())


def collect_questions(stages: Mapping[StageKind, StageArtifacts]) -> tuple[Question, ...]:
    """Every sampled question once, by first appearance, with the answers of all its stages."""
    asked: dict[str, dict[StageKind, Sample]] = {}
    for kind in STAGE_ORDER:
        for sample in stages[kind].samples if kind in stages else ():
            asked.setdefault(sample.id, {})[kind] = sample
    return tuple(_question(samples) for samples in asked.values())


def _question(samples: Mapping[StageKind, Sample]) -> Question:
    first = next(iter(samples.values()))
    image = next((s.image_png_base64 for s in samples.values() if s.image_png_base64), None)
    caption = next((s.reference_caption for s in samples.values() if s.reference_caption), "")
    answers = tuple(Answer(k, s.correct, split_blocks(s.response)) for k, s in samples.items())
    reference = split_blocks(caption)
    return Question(first.id, first.prompt, _picture(image), first.ground_truth, reference, answers)


def _picture(image_png_base64: str | None) -> Picture | None:
    """The picture, or None where there is none or it is not a PNG: then nothing is embedded."""
    try:
        content = base64.b64decode(image_png_base64 or "", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(content) < 24 or not content.startswith(_PNG_MAGIC):
        return None
    # A PNG starts with its IHDR chunk: length, type, then width and height.
    width = struct.unpack(">I", content[16:20])[0]
    factor = max(1, 2 * SMALL_PIXELS // width) if 0 < width <= SMALL_PIXELS else 1
    return Picture(f"data:image/png;base64,{image_png_base64}", factor * width, factor > 1)
