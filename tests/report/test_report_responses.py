"""Responses cut into blocks and matched over the stages."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from prism_api.names import STAGE_ORDER, StageKind
from prism_operator.report.artifacts import Sample, StageArtifacts
from prism_operator.report.responses import Block, collect_questions, split_blocks
from report_builders import a_picture, a_result, a_stage


def a_sample(**changes: Any) -> Sample:
    sample = Sample(id="q", prompt="?", response="", ground_truth="1", correct=True)
    return replace(sample, **changes)


def stage_of(*samples: Sample) -> StageArtifacts:
    return StageArtifacts(a_result("sft"), samples=samples)


CASES: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "three blocks": (
        "<caption>\n- 3\n</caption>\n<think>3</think>\n<answer>3</answer>\n",
        [("caption", "- 3"), ("think", "3"), ("answer", "3")],
    ),
    "text around them": (
        "Well. <answer>3</answer> Done.",
        [("", "Well."), ("answer", "3"), ("", "Done.")],
    ),
    "a block that never ends": (
        "<caption>a</caption><think>on and on",
        [("caption", "a"), ("", "<think>on and on")],
    ),
    "an empty block": ("<think> </think>", [("think", "")]),
    "no block": ("3", [("", "3")]),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("response", "blocks"), CASES.values(), ids=CASES.keys())
def test_a_response_is_cut_into_its_blocks(response: str, blocks: list[tuple[str, str]]) -> None:
    assert split_blocks(response) == tuple(Block(tag, text) for tag, text in blocks)


def test_a_question_has_the_answers_of_all_stages_in_their_order() -> None:
    questions = collect_questions({kind: a_stage(kind) for kind in reversed(STAGE_ORDER)})
    assert len(questions) == 10
    assert all([a.stage for a in q.answers] == ["sft", "align", "rlvr"] for q in questions)


def test_a_question_that_only_one_stage_was_asked_is_shown_too() -> None:
    stages: dict[StageKind, StageArtifacts] = {
        "sft": stage_of(a_sample(id="a"), a_sample(id="b")),
        "rlvr": stage_of(a_sample(id="b")),
    }
    questions = collect_questions(stages)
    assert [(q.id, len(q.answers)) for q in questions] == [("a", 1), ("b", 2)]


def test_a_small_picture_is_enlarged_in_whole_pixels() -> None:
    (question,) = collect_questions({"sft": stage_of(a_sample(image_png_base64=a_picture((3, 7))))})
    assert question.picture is not None
    assert (question.picture.width, question.picture.enlarged) == (64 * 5, True)


@pytest.mark.parametrize(
    "image",
    [None, "", "not base64!", '"><script>', base64.b64encode(b"GIF89a" + bytes(40)).decode()],
)
def test_what_is_no_png_is_never_embedded(image: str | None) -> None:
    (question,) = collect_questions({"sft": stage_of(a_sample(image_png_base64=image))})
    assert question.picture is None
