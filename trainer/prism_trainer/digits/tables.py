"""The data sets: which there are, how their rows are drawn and laid out in Parquet. Pure."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from prism_trainer.digits.images import Split, load_split
from prism_trainer.digits.scenes import Scene, draw_scene
from prism_trainer.digits.teachers import CURATED, PUBLIC, Teacher, demonstrate

Row = dict[str, Any]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_TYPES = {
    "id": pa.string(),
    "data_source": pa.string(),
    "messages": _MESSAGES,
    "prompt": _MESSAGES,
    "images": _IMAGES,
    "teacher_caption": pa.string(),
    "teacher_cot": pa.string(),
    "teacher_response": pa.string(),
    "answer": pa.string(),
    "reward_model": pa.struct([("ground_truth", pa.string()), ("style", pa.string())]),
}


def demonstration_row(scene: Scene, response: str) -> Row:
    """What SFT reads: the conversation and its picture."""
    messages = [scene.user_turn, {"role": "assistant", "content": response}]
    return {"id": scene.id, "messages": messages, "images": scene.images}


def prompt_row(scene: Scene) -> Row:
    """What RLVR reads: the prompt and the answer to verify against."""
    return {
        "id": scene.id,
        "data_source": "digits",
        "prompt": [scene.user_turn],
        "images": scene.images,
        "answer": scene.answer,
        "reward_model": {"ground_truth": scene.answer, "style": "rule"},
    }


def reference_row(scene: Scene) -> Row:
    """What an evaluation reads: a prompt row and the right caption."""
    teacher = demonstrate(scene.question, scene.digits, scene.answer)
    return {**prompt_row(scene), "teacher_caption": teacher.caption}


def teacher_row(scene: Scene) -> Row:
    """What alignment reads: a reference row and the rest of the clean teacher's response."""
    teacher = demonstrate(scene.question, scene.digits, scene.answer)
    parts = {"teacher_cot": teacher.cot, "teacher_response": teacher.text}
    return {**reference_row(scene), **parts}


RowWriter = Callable[[Scene, np.random.Generator], Row]


def _shown_by(teacher: Teacher) -> RowWriter:
    return lambda scene, rng: demonstration_row(
        scene, teacher.respond(scene.question, scene.digits, rng)
    )


@dataclass(frozen=True)
class TableSpec:
    """One data set of the quickstart."""

    name: str
    rows: int
    split: Split
    write: RowWriter


TABLES: tuple[TableSpec, ...] = (
    TableSpec("sft-public", 12000, "train", _shown_by(PUBLIC)),
    TableSpec("sft-curated", 2400, "train", _shown_by(CURATED)),
    TableSpec("align", 2400, "train", lambda scene, rng: teacher_row(scene)),
    TableSpec("rlvr", 6400, "train", lambda scene, rng: prompt_row(scene)),
    TableSpec("validation", 768, "validation", lambda scene, rng: reference_row(scene)),
    TableSpec("heldout", 768, "heldout", lambda scene, rng: reference_row(scene)),
)


def draw_rows(spec: TableSpec, seed: int) -> Iterator[tuple[Scene, Row]]:
    """The rows of one data set, each with its scene: a function of the spec and the seed."""
    # A stream per table: changing the size of one leaves the others as they are.
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    digit_set = load_split(spec.split)
    for number in range(spec.rows):
        scene = draw_scene(
            f"{spec.name}-{number:05d}", digit_set, rng, practice=spec.split == "train"
        )
        yield scene, spec.write(scene, rng)


def build_table(rows: Sequence[Row]) -> pa.Table:
    """The rows as a Parquet table with the columns of the first."""
    schema = pa.schema([(name, kind) for name, kind in _TYPES.items() if name in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)
