"""Rows of the wrong shape, each named with what is wrong about it."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prism_api.errors import DataError
from prism_trainer.data.rows import Need, parse_row
from row_builders import BLOCKS, QUESTION, Row, a_demonstration, a_png, a_prompt_row, a_teacher_row

USER = {"role": "user", "content": "Which?"}


@dataclass(frozen=True)
class Bad:
    """A row of the wrong shape, for the stage that needs it right."""

    name: str
    need: Need
    row: Row
    problem: str

    def __str__(self) -> str:
        return self.name


def _without(row: Row, column: str) -> Row:
    return {name: value for name, value in row.items() if name != column}


def a_pair(**changes: Any) -> Row:
    """A row of a warm-up file."""
    row = a_teacher_row()
    student = {name.replace("teacher", "student"): row[name] for name in row if "teacher" in name}
    return row | student | changes


def _truth(**model: Any) -> Row:
    return a_prompt_row(reward_model=model)


BAD_ROWS = (
    Bad("no turns at all", "truth", {"id": 1}, "column 'prompt' is missing or empty"),
    Bad("no turns", "truth", a_prompt_row(prompt=[]), "column 'prompt' is missing or empty"),
    Bad("null turns", "truth", a_prompt_row(prompt=None), "column 'prompt' is missing or empty"),
    Bad("no messages", "response", a_demonstration(messages=[]), "column 'messages' is missing or"),
    Bad(
        "turns as text",
        "response",
        a_demonstration(messages="Q?"),
        "column 'messages' is a str, not a list",
    ),
    Bad("a blank question", "truth", a_prompt_row(prompt="  "), "column 'prompt' is empty"),
    Bad("a question as number", "truth", {"question": 5}, "column 'question' is no text (int)"),
    Bad("turns as mapping", "truth", a_prompt_row(prompt=USER), "'prompt' is a dict, not a list"),
    Bad("a turn as text", "truth", a_prompt_row(prompt=["Q?"]), "each turn is {role"),
    Bad("a turn without role", "truth", a_prompt_row(prompt=[{"content": "a"}]), "each turn is"),
    Bad("a turn without content", "truth", a_prompt_row(prompt=[{"role": "user"}]), "each turn"),
    Bad(
        "an unknown role",
        "truth",
        a_prompt_row(prompt=[{"role": "tool", "content": "a"}]),
        "each turn is {role: system|user|assistant, content: text} or {from: system|human|gpt",
    ),
    Bad(
        "an unknown speaker",
        "response",
        {"conversations": [{"from": "observation", "value": "a"}]},
        "column 'conversations' holds \"{'from': 'observation'",
    ),
    Bad(
        "a role as list", "truth", a_prompt_row(prompt=[{"role": [], "content": "a"}]), "each turn"
    ),
    Bad(
        "half a character",
        "truth",
        a_prompt_row(prompt=[{"role": "user", "content": "<image>\ud83d"}]),
        "each turn is {role",
    ),
    Bad("tools", "truth", a_prompt_row(tools="[{}]"), "has tools, which are not supported"),
    Bad("videos", "truth", a_prompt_row(videos=["a.mp4"]), "has videos, which are not supported"),
    Bad(
        "a system as list", "truth", a_prompt_row(system=["a"]), "column 'system' is no text (list)"
    ),
    Bad(
        "content as a number",
        "truth",
        a_prompt_row(prompt=[{"role": "user", "content": 5}]),
        "each turn is {role",
    ),
    Bad("images as text", "truth", a_prompt_row(images="a.png"), "'images' is a str, not a list"),
    Bad("an image as number", "truth", a_prompt_row(images=[3]), "neither bytes nor a path"),
    Bad("an empty image", "truth", a_prompt_row(images=[{"bytes": b""}]), "neither bytes nor"),
    Bad("a null image", "truth", a_prompt_row(images=[None]), "neither bytes nor a path"),
    Bad(
        "image bytes as text",
        "truth",
        a_prompt_row(images=[{"bytes": "iVBORw0"}]),
        "neither bytes nor a path",
    ),
    Bad(
        "an image path as number", "truth", a_prompt_row(images=[{"path": 3}]), "neither bytes nor"
    ),
    Bad(
        "a missing image file",
        "truth",
        a_prompt_row(images=["img/gone.png"]),
        "image file /data/img/gone.png does not exist; copy it there or mend the path",
    ),
    Bad(
        "an image elsewhere",
        "truth",
        a_prompt_row(images=["https://example.org/7.png"]),
        "image 'https://example.org/7.png' is a URI; URIs are not fetched; give the path of a file",
    ),
    Bad("a file URI", "truth", a_prompt_row(images=["file:///7.png"]), "'file:///7.png' is a URI"),
    Bad("a home", "truth", a_prompt_row(images=["~/7.png"]), "~ is not expanded; write the whole"),
    Bad(
        "base64 without a prefix",
        "truth",
        a_prompt_row(images=[base64.b64encode(a_png()).decode()]),
        "does not exist; if it is base64, put data:image/png;base64, before it",
    ),
    Bad(
        "a data URI of something else",
        "truth",
        a_prompt_row(images=["data:text/html;base64,PGI+"]),
        "an image's data URI begins 'data:text/html;base64,PGI+'; it has to begin data:image/png",
    ),
    Bad(
        "a data URI that is not base64",
        "truth",
        a_prompt_row(images=["data:image/png,%89PNG"]),
        "it has to begin data:image/png;base64,",
    ),
    Bad(
        "a cut data URI",
        "truth",
        a_prompt_row(images=["data:image/png;base64,iVBOR"]),
        "an image's data URI is not base64 (",
    ),
    Bad(
        "a data URI with signs of another alphabet",
        "truth",
        a_prompt_row(images=["data:image/png;base64,iV-_"]),
        "is not base64 (Only base64 data is allowed); encode the image again",
    ),
    Bad(
        "a data URI beyond ASCII",
        "truth",
        a_prompt_row(images=["data:image/png;base64,äöü="]),
        "is not base64",
    ),
    Bad(
        "an empty data URI",
        "truth",
        a_prompt_row(images=["data:image/png;base64,"]),
        "an image's data URI is empty",
    ),
    Bad("an image as list", "truth", a_prompt_row(images=None, image=["7.png"]), "neither bytes"),
    Bad("too few images", "truth", a_prompt_row(images=[]), "1 <image> in the prompt but 0 images"),
    Bad(
        "too many images",
        "truth",
        a_prompt_row(images=[{"bytes": a_png()}] * 3),
        "1 <image> in the prompt but 3 images",
    ),
    Bad("no mark", "truth", a_prompt_row(prompt=[USER]), "0 <image> in the prompt but 1 images"),
    Bad("no blocks", "response", a_demonstration("It is 7."), "lacks the three blocks <caption>"),
    Bad(
        "a missing block",
        "response",
        a_demonstration(BLOCKS.replace("think>", "thoughts>")),
        "the demonstration lacks the three blocks",
    ),
    Bad(
        "blocks in another order",
        "response",
        a_demonstration("<think>a</think><caption>b</caption><answer>c</answer>"),
        "in this order; it begins '<think>a</think>",
    ),
    Bad(
        "blocks opened over and over",
        "response",
        a_demonstration("<caption></caption><think></think>" * 3000),
        "lacks the three blocks",
    ),
    Bad(
        "a second caption",
        "response",
        a_demonstration(f"<caption>a</caption>{BLOCKS}"),
        "the demonstration holds <caption> 2 times; leave only the block's",
    ),
    Bad(
        "a second closing tag of the teacher",
        "teacher",
        a_teacher_row(teacher_response=f"{BLOCKS}</answer>"),
        "the teacher's text holds </answer> 2 times",
    ),
    Bad(
        "a caption in the reasoning",
        "teacher",
        a_teacher_row(teacher_cot="<think><caption></think><answer>7</answer>"),
        "the teacher's text holds <caption> 2 times",
    ),
    Bad("an unclosed block", "response", a_demonstration(BLOCKS[:-3]), "lacks the three blocks"),
    Bad("an empty demonstration", "response", a_demonstration(""), "lacks the three blocks"),
    Bad(
        "an answer without a question",
        "response",
        a_demonstration(messages=[{"role": "assistant", "content": BLOCKS}], images=[]),
        "has an answer but no question",
    ),
    Bad(
        "a question without an answer",
        "response",
        a_demonstration(messages=[QUESTION]),
        "column 'teacher_response' is missing",
    ),
    Bad(
        "no caption of the teacher",
        "teacher",
        _without(a_teacher_row(), "teacher_caption"),
        "column 'teacher_caption' is missing",
    ),
    Bad(
        "no reasoning of the teacher",
        "teacher",
        a_teacher_row(teacher_cot=None),
        "column 'teacher_cot' is no text (null)",
    ),
    Bad(
        "a blank caption of the teacher",
        "teacher",
        a_teacher_row(teacher_caption="  "),
        "column 'teacher_caption' is empty",
    ),
    Bad(
        "reasoning as number",
        "teacher",
        a_teacher_row(teacher_cot=7),
        "column 'teacher_cot' is no text (int)",
    ),
    Bad(
        "segments without their tags",
        "teacher",
        a_teacher_row(teacher_caption="a seven", teacher_response=BLOCKS),
        "teacher_caption with teacher_cot lacks the three blocks",
    ),
    Bad(
        "a teacher's text without blocks",
        "teacher",
        a_teacher_row(teacher_response="7"),
        "the teacher's text lacks the three blocks",
    ),
    Bad(
        "a teacher's text as list",
        "teacher",
        a_teacher_row(teacher_response=[BLOCKS]),
        "column 'teacher_response' is no text (list)",
    ),
    Bad(
        "a pair without a student",
        "pair",
        _without(a_pair(), "student_cot"),
        "column 'student_cot' is missing",
    ),
    Bad(
        "a pair of whole responses without a student's",
        "pair",
        a_prompt_row(teacher_response=BLOCKS),
        "column 'student_response' is missing",
    ),
    Bad(
        "gating without a gold answer",
        "teacher_truth",
        a_teacher_row(reward_model=None),
        "reward_model.ground_truth is missing, empty or not a text; give the answer, or remove",
    ),
    Bad(
        "a pair without a teacher",
        "pair",
        _without(a_pair(), "teacher_caption"),
        "column 'teacher_caption' is missing",
    ),
    Bad(
        "a student without blocks",
        "pair",
        a_pair(student_cot="It is 7."),
        "the student's text lacks the three blocks",
    ),
    Bad("no reward model", "truth", _without(a_prompt_row(), "reward_model"), "ground_truth is"),
    Bad("a reward model as text", "truth", a_prompt_row(reward_model="7"), "ground_truth is miss"),
    Bad("no truth", "truth", _truth(style="rule"), "reward_model.ground_truth is missing"),
    Bad("half a truth", "truth", _truth(ground_truth="\ud83d"), "empty or not a text"),
    Bad("an empty truth", "truth", _truth(ground_truth=" "), "ground_truth is missing, empty"),
    Bad("a truth as number", "truth", _truth(ground_truth=7), "empty or not a text"),
    Bad(
        "equivalents as text",
        "truth",
        _truth(ground_truth="12", equivalent_answers="12.0"),
        "equivalent_answers is no list of texts",
    ),
    Bad(
        "equivalents as numbers",
        "truth",
        _truth(ground_truth="12", equivalent_answers=[12]),
        "equivalent_answers is no list of texts",
    ),
    Bad(
        "a reference caption as number",
        "truth",
        a_prompt_row(teacher_caption=5),
        "column 'teacher_caption' is no text (int)",
    ),
)


@pytest.mark.parametrize("bad", BAD_ROWS, ids=str)
def test_a_bad_row_is_named_with_its_fault(bad: Bad) -> None:
    with pytest.raises(DataError) as caught:
        parse_row(bad.row, "/data/a.jsonl row 3", Path("/data/a.jsonl"), bad.need)

    assert str(caught.value).startswith("/data/a.jsonl row 3: ")
    assert bad.problem in str(caught.value)
