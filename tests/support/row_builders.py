"""Data rows of each layout, pictures, and files of them, good and bad."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, Any]

BLOCKS = "<caption>\n- 7\n</caption>\n<think>\nIt is 7.\n</think>\n<answer>7</answer>"
QUESTION = {"role": "user", "content": "<image>What digit is this?"}


def a_png(width: int = 32, height: int = 32) -> bytes:
    """A picture of noise, which does not compress to nothing."""
    noise = random.Random(width * height).randbytes(width * height)
    buffer = io.BytesIO()
    Image.frombytes("L", (width, height), noise).save(buffer, "PNG")
    return buffer.getvalue()


def a_demonstration(response: str = BLOCKS, **changes: Any) -> Row:
    """A row of an SFT file."""
    messages = [QUESTION, {"role": "assistant", "content": response}]
    row = {"id": "d-1", "messages": messages, "images": [{"bytes": a_png(), "path": None}]}
    return row | changes


def a_teacher_row(**changes: Any) -> Row:
    """A row of an alignment file."""
    caption, reasoning = BLOCKS.split("\n<think>")
    teacher = {"teacher_caption": caption, "teacher_cot": "<think>" + reasoning}
    return a_prompt_row() | teacher | changes


def a_prompt_row(**changes: Any) -> Row:
    """A row of an RLVR file."""
    row = {
        "id": "p-1",
        "prompt": [QUESTION],
        "images": [{"bytes": a_png(), "path": None}],
        "reward_model": {"ground_truth": "7", "style": "rule"},
    }
    return row | changes


def write_parquet(path: Path, rows: Sequence[Row], row_group_size: int = 100) -> Path:
    """A Parquet file of the rows; returns the file."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=row_group_size)
    return path


def write_jsonl(path: Path, rows: Sequence[Row | str]) -> Path:
    """A JSON-lines file of the rows, texts as they are; returns the file."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path
