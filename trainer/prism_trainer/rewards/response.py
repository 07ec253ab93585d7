"""The response format: a caption, a thinking and an answer block.

Called by rewards, alignment and evaluation. The format is the one that the reference code's
`mm_gad_no_llm` checks, but each tag has to occur exactly once: there, an `<answer>` planted in the
caption wins over the real one and doubled closing tags pass.
"""

import re
from dataclasses import dataclass

_TAGS = ("<caption>", "</caption>", "<think>", "</think>", "<answer>", "</answer>")
_FORMAT = re.compile(
    r"\s*<caption>(?P<caption>.*?)</caption>\s*"
    r"<think>(?P<think>.*?)</think>(?P<gap>\s*)<answer>(?P<answer>.*?)</answer>\s*",
    re.DOTALL,
)
# A hyphen or star right before a digit is a sign or a product, and two stars are Markdown bold.
_BULLET = re.compile(
    "^[-*\N{BULLET}\N{TRIANGULAR BULLET}\N{WHITE BULLET}](?:\\s+|$|(?=[^\\W\\d_]))"
)


@dataclass(frozen=True, slots=True)
class Response:
    """A response that has the format; built by `parse_response` only."""

    caption: str
    """Inner text, stripped; so are `think` and `answer`."""
    think: str
    answer: str
    caption_segment: str
    """`<caption>...</caption>` as written: what the perception score reads."""
    reasoning_segment: str
    """`<think>...</think>`, the space between and `<answer>...</answer>` as written."""


def parse_response(text: str) -> Response | None:
    """The three blocks of a text that has the format, else None; empty blocks have it."""
    if any(text.count(tag) != 1 for tag in _TAGS):
        return None
    match = _FORMAT.fullmatch(text)
    if match is None:
        return None
    caption, think, gap, answer = match.group("caption", "think", "gap", "answer")
    return Response(
        caption=caption.strip(),
        think=think.strip(),
        answer=answer.strip(),
        caption_segment=f"<caption>{caption}</caption>",
        reasoning_segment=f"<think>{think}</think>{gap}<answer>{answer}</answer>",
    )


def caption_items(caption: str) -> list[str]:
    """The items of a caption, given with or without its tags: its non-empty lines without their
    bullets."""
    inner = caption.replace("<caption>", "").replace("</caption>", "")
    lines = (line.strip() for line in inner.splitlines())
    return [item for line in lines if (item := _BULLET.sub("", line, count=1).strip())]


def matching_caption_items(caption: str, reference: str) -> tuple[int, int]:
    """How many items of the reference the caption states at the same index, and of how many."""
    stated, wanted = caption_items(caption), caption_items(reference)
    same = sum(a.split() == b.split() for a, b in zip(stated, wanted, strict=False))
    return same, len(wanted)
