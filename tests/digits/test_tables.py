"""The data sets of a made folder, checked against the pictures by means of their own."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from prism_trainer.digits.images import load_all, load_split
from prism_trainer.digits.tables import TABLES, TableSpec, draw_rows

Row = dict[str, Any]
ReadTable = Callable[[str], list[Row]]
Look = Callable[[bytes], tuple[tuple[int, ...], tuple[int, ...]]]

PROMPT_COLUMNS = ["id", "data_source", "prompt", "images", "answer", "reward_model"]
LAYOUTS = {
    "sft-public": (12000, "train", ["id", "messages", "images"]),
    "sft-curated": (2400, "train", ["id", "messages", "images"]),
    "align": (
        2400,
        "train",
        [*PROMPT_COLUMNS, "teacher_caption", "teacher_cot", "teacher_response"],
    ),
    "rlvr": (6400, "train", PROMPT_COLUMNS),
    "validation": (768, "validation", [*PROMPT_COLUMNS, "teacher_caption"]),
    "heldout": (768, "heldout", [*PROMPT_COLUMNS, "teacher_caption"]),
}
BLOCKS = re.compile(
    r"(<caption>\n(?:- \d\n)+</caption>)\n(<think>\n.+\n</think>\n<answer>\n(\w+)\n</answer>)"
)
every_table = pytest.mark.parametrize("name", LAYOUTS)


def user_text(row: Row) -> str:
    (user, *_) = row["messages"] if "messages" in row else row["prompt"]
    assert user["role"] == "user"
    return str(user["content"])


def right_answer(question: str, digits: tuple[int, ...]) -> str:
    """The answer by an independent reading of the question."""
    if "sum" in question:
        return str(digits[0] + digits[1])
    if "difference" in question:
        return str(max(digits[:2]) - min(digits[:2]))
    if "the last digit?" in question:
        return str(digits[-1])
    if "largest" in question:
        return str(sorted(digits)[-1])
    if "smallest" in question:
        return str(sorted(digits)[0])
    assert digits[0] != digits[-1]
    return "AB"[digits[-1] > digits[0]]


@every_table
def test_tables_have_their_rows_columns_and_types(made: Path, name: str) -> None:
    rows, _, columns = LAYOUTS[name]
    table = pq.read_table(made / f"{name}.parquet")
    assert table.num_rows == rows
    assert sorted(table.column_names) == sorted(columns)
    images = table.schema.field("images").type
    assert [(field.name, str(field.type)) for field in images.value_type] == [
        ("bytes", "binary"),
        ("path", "string"),
    ]


@every_table
def test_every_row_has_its_own_id_and_one_picture_named_once(
    read_table: ReadTable, name: str
) -> None:
    rows = read_table(name)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert len(row["images"]) == 1
        assert user_text(row).startswith("<image>")
        assert user_text(row).count("<image>") == 1


@every_table
def test_pictures_are_composed_of_digits_of_the_tables_own_split(
    read_table: ReadTable, look: Look, name: str
) -> None:
    own = {scan.tobytes() for scan in load_split(LAYOUTS[name][1]).pixels}
    for row in read_table(name):
        _, instances = look(row["images"][0]["bytes"])
        assert len(instances) in (2, 3)
        assert len(set(instances)) == len(instances)
        assert all(load_all().pixels[i].tobytes() in own for i in instances)


@pytest.mark.parametrize("name", ["align", "rlvr", "validation", "heldout"])
def test_gold_answers_are_right_for_the_picture(
    read_table: ReadTable, look: Look, name: str
) -> None:
    for row in read_table(name):
        digits, _ = look(row["images"][0]["bytes"])
        assert row["answer"] == right_answer(user_text(row), digits)
        assert row["reward_model"] == {"ground_truth": row["answer"], "style": "rule"}
        assert row["data_source"] == "digits"


def test_curated_demonstrations_parse_and_are_right(read_table: ReadTable, look: Look) -> None:
    for row in read_table("sft-curated"):
        response = row["messages"][1]["content"]
        blocks = BLOCKS.fullmatch(response)
        digits, _ = look(row["images"][0]["bytes"])
        assert row["messages"][1]["role"] == "assistant"
        assert blocks
        assert [int(d) for d in re.findall(r"- (\d)\n", blocks[1])] == list(digits)
        assert blocks[3] == right_answer(user_text(row), digits)


def test_alignment_teachers_parse_are_right_and_are_the_sum_of_their_parts(
    read_table: ReadTable, look: Look
) -> None:
    for row in read_table("align"):
        blocks = BLOCKS.fullmatch(row["teacher_response"])
        assert blocks
        assert (blocks[1], blocks[2]) == (row["teacher_caption"], row["teacher_cot"])
        assert blocks[3] == row["answer"]
        digits, _ = look(row["images"][0]["bytes"])
        assert row["teacher_caption"].split("\n")[1:-1] == [f"- {digit}" for digit in digits]


@pytest.mark.parametrize("name", ["validation", "heldout"])
def test_reference_captions_state_what_the_picture_shows(
    read_table: ReadTable, look: Look, name: str
) -> None:
    for row in read_table(name):
        digits, _ = look(row["images"][0]["bytes"])
        lines = ["<caption>", *(f"- {digit}" for digit in digits), "</caption>"]
        assert row["teacher_caption"] == "\n".join(lines)


def test_public_captions_are_wrong_as_often_as_about_json_says(
    made: Path, read_table: ReadTable, look: Look
) -> None:
    wrong = []
    for row in read_table("sft-public"):
        stated = re.findall(r"^- (\d)$", row["messages"][1]["content"], re.MULTILINE)
        digits, _ = look(row["images"][0]["bytes"])
        wrong += [int(said) != digit for said, digit in zip(stated, digits, strict=True)]
    faults = json.loads((made / "about.json").read_text())["tables"]["sft-public"]["faults"]
    assert np.mean(wrong) == pytest.approx(faults["wrong_digits"], abs=1e-4)
    assert np.mean(wrong) == pytest.approx(0.28, abs=0.02)
    assert faults["broken_format"] == pytest.approx(0.04, abs=0.012)
    assert faults["slips"] == pytest.approx(0.10, abs=0.02)


@every_table
def test_training_practises_arithmetic_and_evaluations_ask_all_kinds_equally(
    read_table: ReadTable, look: Look, name: str
) -> None:
    rows = read_table(name)
    kinds = [user_text(row) for row in rows]
    arithmetic = sum("sum" in kind or "difference" in kind for kind in kinds) / len(rows)
    lengths = [len(look(row["images"][0]["bytes"])[0]) for row in rows]
    assert len(set(kinds)) == 6
    assert arithmetic == pytest.approx(1 / 2 if LAYOUTS[name][1] == "train" else 1 / 3, abs=0.05)
    assert np.mean(lengths) == pytest.approx(2.5, abs=0.06)


def test_seeds_and_tables_draw_different_pictures() -> None:
    align, rlvr = (spec for spec in TABLES if spec.name in ("align", "rlvr"))

    def pictures(spec: TableSpec, seed: int) -> list[bytes]:
        drawn = draw_rows(spec, seed)
        return [scene.png for scene, _ in (next(drawn) for _ in range(20))]

    assert pictures(align, 0) == pictures(align, 0)
    assert pictures(align, 0) != pictures(align, 1)
    assert pictures(align, 0) != pictures(rlvr, 0)
