"""Rows: what each stage needs is checked, and a bad row is named."""

from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import DataError
from prism_api.resources import DataSource
from prism_api.uris import file_uri
from prism_trainer.data.rows import Dataset, Need, check_dataset, parse_row
from row_builders import (
    BLOCKS,
    QUESTION,
    Row,
    a_demonstration,
    a_png,
    a_prompt_row,
    a_teacher_row,
    write_jsonl,
    write_parquet,
)

USER = {"role": "user", "content": "Which?"}


def sources(*paths: Path) -> list[DataSource]:
    return [DataSource(uri=file_uri(path)) for path in paths]


def dataset(need: Need, *paths: Path) -> Dataset:
    return Dataset(sources(*paths), need)


def parsed(row: Row, need: Need, folder: Path = Path("/data")) -> Any:
    return parse_row(row, "/data/a.jsonl row 3", folder / "a.jsonl", need)


def test_a_demonstration_is_split_into_prompt_and_response() -> None:
    row = parsed(a_demonstration(), "response")

    assert row.messages == (QUESTION,)
    assert row.response == BLOCKS
    assert len(row.images) == 1


def test_a_demonstration_may_stand_in_a_column_of_its_own() -> None:
    row = parsed(a_prompt_row(teacher_response=BLOCKS), "response")

    assert (row.messages, row.response) == ((QUESTION,), BLOCKS)


def test_a_demonstration_may_have_text_around_its_blocks() -> None:
    text = f"Sure!\n{BLOCKS}\nHope that helps."

    assert parsed(a_demonstration(text), "response").response == text


def test_a_teacher_row_has_both_segments_and_the_whole_text() -> None:
    row = parsed(a_teacher_row(), "teacher")

    assert row.teacher_caption == "<caption>\n- 7\n</caption>"
    assert row.teacher_reasoning.startswith("<think>")
    assert row.response == BLOCKS


def test_the_truth_comes_with_its_equivalents() -> None:
    model = {"ground_truth": "1/2", "equivalent_answers": ["0.5", "50 %"]}

    assert parsed(a_prompt_row(reward_model=model), "truth").truths == ("1/2", "0.5", "50 %")
    assert parsed(a_prompt_row(), "truth").truths == ("7",)


def test_system_turns_and_several_turns_are_kept() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "?"},
    ]

    row = parsed(a_prompt_row(prompt=[*turns, QUESTION]), "truth")

    assert [turn["role"] for turn in row.messages] == ["system", "user", "assistant", "user"]


def test_an_image_may_be_a_path_beside_the_data_file(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img/7.png").write_bytes(a_png())
    for image in ("img/7.png", {"path": "img/7.png"}, {"bytes": None, "path": "img/7.png"}):
        (found,) = parsed(a_prompt_row(images=[image]), "truth", tmp_path).images

        assert (found.content, found.path) == (None, tmp_path / "img/7.png")


@pytest.mark.parametrize("name", ["{}/7.png", "../pictures/7.png"], ids=["absolute", "beside"])
def test_an_image_may_lie_outside_the_data_files_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/7.png").write_bytes(a_png())
    image = name.format(tmp_path / "pictures")

    (found,) = parsed(a_prompt_row(images=[image]), "truth", tmp_path / "data").images

    assert found.path is not None
    assert found.path.read_bytes() == a_png()


@pytest.mark.parametrize(
    ("column", "text", "turn"),
    [
        ("question", "Which?", "<image>Which?"),
        ("question", "Which is <image>?", "Which is <image>?"),
        ("prompt", "Which?", "<image>Which?"),
    ],
)
def test_a_question_may_be_plain_text_with_its_image_before_it(
    column: str, text: str, turn: str
) -> None:
    row = parsed(a_prompt_row(prompt=None) | {column: text}, "truth")

    assert row.messages == ({"role": "user", "content": turn},)


def test_a_system_turn_stands_before_the_system_column() -> None:
    own = {"role": "system", "content": "own"}

    with_turn = parsed(a_prompt_row(prompt=[own, QUESTION], system="column"), "truth")
    without = parsed(a_prompt_row(system="column"), "truth")

    assert with_turn.messages == (own, QUESTION)
    assert without.messages == ({"role": "system", "content": "column"}, QUESTION)


@pytest.mark.parametrize("write", [write_parquet, write_jsonl], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "bad", [*[[i] for i in range(8)], [3, 4], [2, 7], [*range(8)]], ids=lambda bad: str(bad)
)
def test_the_check_reads_every_row_and_names_the_first_bad_one(
    tmp_path: Path, write: Any, bad: list[int]
) -> None:
    kind = ".parquet" if write is write_parquet else ".jsonl"
    rows = [a_prompt_row(prompt=[USER], images=[]) for _ in range(8)]
    good = write(tmp_path / f"good{kind}", rows)
    for index in bad:
        rows[index] = rows[index] | {"reward_model": {"ground_truth": "", "style": "rule"}}
    path = write(tmp_path / f"a{kind}", rows)

    check_dataset(sources(good), "truth")
    with pytest.raises(DataError) as caught:
        check_dataset(sources(good, path), "truth")

    assert str(caught.value).startswith(f"{path} row {bad[0]}: reward_model.ground_truth")


def test_a_bad_row_that_nobody_checked_is_named_when_it_is_used(tmp_path: Path) -> None:
    rows = [a_prompt_row(prompt=[USER], images=[]) for _ in range(3)]
    rows[1] = rows[1] | {"reward_model": {"ground_truth": "", "style": "rule"}}
    path = write_jsonl(tmp_path / "a.jsonl", rows)

    data = dataset("truth", path)

    assert (data[0].truths, data[2].truths) == (("7",), ("7",))
    with pytest.raises(DataError, match=r"a\.jsonl row 1: reward_model\.ground_truth"):
        data[1]


@pytest.mark.parametrize("open_them", [check_dataset, Dataset], ids=["check", "data set"])
def test_every_file_is_looked_for_before_a_row_is_read(tmp_path: Path, open_them: Any) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", ["no row"])

    with pytest.raises(DataError, match=r"gone\.jsonl: no such data file"):
        open_them(sources(bad, tmp_path / "gone.jsonl"), "truth")


def test_a_column_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [{"messages": "a text", "images": []}])

    with pytest.raises(DataError, match=r"row 0: column 'messages' is a str, not a list"):
        check_dataset(sources(path), "response")


def test_several_files_are_one_data_set(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "a.parquet", [a_demonstration(id="a0")])
    turns = [USER, {"role": "assistant", "content": BLOCKS}]
    rows = [a_demonstration(id=f"b{i}", messages=turns, images=[]) for i in range(2)]
    second = write_jsonl(tmp_path / "b.jsonl", rows)

    data = dataset("response", first, second)

    assert [data[i].id for i in range(len(data))] == ["a0", "b0", "b1"]
    assert data[2].origin == f"{second} row 1"


def test_an_empty_file_among_several_is_named(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "a.parquet", [a_demonstration()])
    second = write_jsonl(tmp_path / "b.jsonl", [])

    with pytest.raises(DataError, match=r"b\.jsonl: has no rows"):
        dataset("response", first, second)


@pytest.mark.parametrize("need", ["truth", "teacher"])
def test_a_prompt_that_gives_the_answer_away_is_refused(need: Need, tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "<answer>7</answer>"},
    ]
    raw = {"prompt": turns, "reward_model": {"ground_truth": "7"}}

    with pytest.raises(DataError, match=r"row 3.*give the answer away"):
        parse_row(raw, "row 3", tmp_path / "data.parquet", need)
