"""Each published layout is read as it was published: shared texts from the method's description,
LLaMA-Factory's own documentation for ShareGPT."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prism_api.resources import DataSource
from prism_api.uris import file_uri
from prism_trainer.data.pictures import load_image
from prism_trainer.data.rows import Dataset, Need, Row, check_dataset
from row_builders import a_png, write_parquet

DEMONSTRATION = (
    "<caption>\n- table with 3 red cubes\n</caption>\n<think>\nCount: 3.\n</think>\n"
    "<answer>\n3\n</answer>"
)
OPENAI_TURNS = r"""{"messages":[{"role":"system","content":"<system message>"},
  {"role":"user","content":"<image>How many red cubes are on the table?"},
  {"role":"assistant","content":"<caption>\n- table with 3 red cubes\n</caption>\n<think>\nCount: 3.\n</think>\n<answer>\n3\n</answer>"}],
 "images":["img/0001.png"]}"""  # noqa: E501
SHAREGPT_TURNS = r"""{"conversations":[
  {"from":"human","value":"<image>How many red cubes are on the table?"},
  {"from":"gpt","value":"<caption>\n- table with 3 red cubes\n</caption>\n<think>\nCount: 3.\n</think>\n<answer>\n3\n</answer>"}],
 "images":["img/0001.png"], "system":"<system message>", "tools":""}"""  # noqa: E501
WARM_UP_PAIR = r"""{"id":"w-7","image":"img/0001.png","question":"What is the angle at B?",
 "teacher_caption":"<caption>\n- triangle ABC\n</caption>",
 "teacher_cot":"<think>\n180-60-70\n</think>\n<answer>\n50\n</answer>",
 "student_caption":"<caption>\n- a shape\n</caption>",
 "student_cot":"<think>\nmaybe 60\n</think>\n<answer>\n60\n</answer>"}"""
ALIGNMENT_ROW: dict[str, Any] = {
    "data_source": "mm_gad",
    "prompt": [
        {"role": "system", "content": "Think."},
        {"role": "user", "content": "<image>Find x."},
    ],
    "images": [{"bytes": a_png(), "path": None}],
    "teacher_caption": "<caption>a</caption>",
    "teacher_cot": "<think>b</think><answer>4</answer>",
    "teacher_response": "<caption>a</caption><think>b</think><answer>4</answer>",
    "answer": "4",
    "reward_model": {"ground_truth": "4", "style": "rule"},
}


def read(path: Path, need: Need) -> Row:
    """The file's only row, whose picture can be decoded."""
    sources = [DataSource(uri=file_uri(path))]
    check_dataset(sources, need)
    data = Dataset(sources, need)
    assert len(data) == 1
    (image,) = data[0].images
    assert load_image(image, data[0].origin).size == (32, 32)
    return data[0]


def in_a_file(text: str, folder: Path, kind: str) -> Path:
    (folder / "img").mkdir()
    (folder / "img/0001.png").write_bytes(a_png())
    value = json.loads(text)
    path = folder / f"data{kind}"
    path.write_text(json.dumps(value) + "\n" if kind == ".jsonl" else json.dumps([value], indent=1))
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
@pytest.mark.parametrize("text", [OPENAI_TURNS, SHAREGPT_TURNS], ids=["role", "from"])
def test_sft_as_llama_factory_has_it(tmp_path: Path, text: str, kind: str) -> None:
    path = in_a_file(text, tmp_path, kind)

    row = read(path, "response")

    assert row.messages == (
        {"role": "system", "content": "<system message>"},
        {"role": "user", "content": "<image>How many red cubes are on the table?"},
    )
    assert row.response == DEMONSTRATION
    assert row.images[0].path == tmp_path / "img/0001.png"
    assert row.origin == f"{path} row 0"


def test_warm_up_pairs(tmp_path: Path) -> None:
    row = read(in_a_file(WARM_UP_PAIR, tmp_path, ".jsonl"), "pair")

    assert row.id == "w-7"
    assert row.messages == ({"role": "user", "content": "<image>What is the angle at B?"},)
    assert row.teacher_caption == "<caption>\n- triangle ABC\n</caption>"
    assert row.teacher_reasoning == "<think>\n180-60-70\n</think>\n<answer>\n50\n</answer>"
    assert row.student_caption == "<caption>\n- a shape\n</caption>"
    assert row.student_reasoning == "<think>\nmaybe 60\n</think>\n<answer>\n60\n</answer>"


def test_a_warm_up_pair_of_whole_responses_is_cut_behind_the_captions(tmp_path: Path) -> None:
    pair = json.loads(WARM_UP_PAIR)
    whole = {name: pair[name] for name in ("id", "image", "question")} | {
        f"{who}_response": f"{pair[f'{who}_caption']}\n{pair[f'{who}_cot']}"
        for who in ("teacher", "student")
    }

    row = read(in_a_file(json.dumps(whole), tmp_path, ".jsonl"), "pair")

    for who, caption, reasoning in (
        ("teacher", row.teacher_caption, row.teacher_reasoning),
        ("student", row.student_caption, row.student_reasoning),
    ):
        assert caption == pair[f"{who}_caption"]
        assert reasoning is not None
        assert reasoning.strip() == pair[f"{who}_cot"]


def test_the_alignment_parquet(tmp_path: Path) -> None:
    row = read(write_parquet(tmp_path / "align.parquet", [ALIGNMENT_ROW]), "teacher")

    assert row.messages == tuple(ALIGNMENT_ROW["prompt"])
    assert row.images[0].content == a_png()
    assert row.teacher_caption == "<caption>a</caption>"
    assert row.teacher_reasoning == "<think>b</think><answer>4</answer>"
    assert row.response == "<caption>a</caption><think>b</think><answer>4</answer>"


@pytest.mark.parametrize("others", [None, ["4.0", "four"]])
def test_the_rlvr_parquet(tmp_path: Path, others: list[str] | None) -> None:
    raw = {name: value for name, value in ALIGNMENT_ROW.items() if "teacher" not in name}
    raw["reward_model"] = {"ground_truth": "4", "style": "rule", "equivalent_answers": others}
    raw["extra_info"] = {"index": 7, "split": "train"}

    row = read(write_parquet(tmp_path / "rlvr.parquet", [raw]), "truth")

    assert row.messages == tuple(ALIGNMENT_ROW["prompt"])
    assert row.truths == ("4", *(others or []))
    assert row.response is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_may_be_embedded_in_json(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(a_png())).save(buffer, kind)
    content = buffer.getvalue()
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"
    value = json.loads(OPENAI_TURNS) | {"images": [uri]}

    row = read(in_a_file(json.dumps(value), tmp_path, ".json"), "response")

    assert (row.images[0].content, row.images[0].path) == (content, None)
