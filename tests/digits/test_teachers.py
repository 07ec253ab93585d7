"""The teachers: what they write, and how often the public one is wrong in which way."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_trainer.digits.faults import has_format, measure_faults, read_answer, read_digits
from prism_trainer.digits.questions import QUESTIONS, Digits, Question
from prism_trainer.digits.scenes import Scene
from prism_trainer.digits.teachers import (
    CURATED,
    MISREADINGS,
    PUBLIC,
    REMARKS,
    SEPARATOR,
    Teacher,
    demonstrate,
)

SUM = QUESTIONS[0]
BLOCKS = re.compile(
    r"<caption>\n((?:- \d\n)+)</caption>\n<think>\n(.+)\n</think>\n<answer>\n(\w+)\n</answer>"
)


def test_a_demonstration_is_laid_out_in_three_blocks() -> None:
    shown = demonstrate(SUM, (3, 5), "8")
    assert shown.caption == "<caption>\n- 3\n- 5\n</caption>"
    assert shown.cot == "<think>\nThe sum is 3 + 5 = 8.\n</think>\n<answer>\n8\n</answer>"
    assert shown.text == shown.caption + SEPARATOR + shown.cot


@settings(deadline=None)
@given(
    st.sampled_from(QUESTIONS),
    st.lists(st.integers(0, 9), min_size=2, max_size=3).map(tuple),
    st.integers(0, 2**31),
)
def test_the_curated_teacher_is_always_right(question: Question, digits: Digits, seed: int) -> None:
    response = CURATED.respond(question, digits, np.random.default_rng(seed))
    blocks = BLOCKS.fullmatch(response)
    assert blocks
    assert read_digits(response) == digits
    assert blocks[3] == question.solve(digits) == read_answer(response)


@pytest.mark.parametrize(
    ("teacher", "response"),
    [
        pytest.param(
            Teacher(misreading_rate=1.0),
            "<caption>\n- 8\n- 2\n</caption>\n<think>\nThe sum is 8 + 2 = 10.\n</think>\n"
            "<answer>\n10\n</answer>",
            id="a misreading is carried through to the answer",
        ),
        pytest.param(
            Teacher(wrong_answer_rate=1.0),
            "<caption>\n- 3\n- 2\n</caption>\n<think>\nThe sum is 3 + 2 = 7.\n</think>\n"
            "<answer>\n7\n</answer>",
            id="a slip shows in the derivation too",
        ),
        pytest.param(
            Teacher(sloppy_rate=1.0),
            "Look.\n<caption>\n- 3\n- 2\n</caption>\n<think>\nThe sum is 3 + 2 = 5.\n</think>\n"
            "<answer>\n5\n</answer>",
            id="sloppiness adds a remark",
        ),
    ],
)
def test_each_fault_alone(teacher: Teacher, response: str) -> None:
    written = {teacher.respond(SUM, (3, 2), np.random.default_rng(seed)) for seed in range(60)}
    assert response in written


def test_sloppiness_adds_a_remark_around_the_blocks_and_breaks_the_format() -> None:
    teacher = Teacher(sloppy_rate=1.0)
    clean = demonstrate(SUM, (3, 2), "5").text
    written = {teacher.respond(SUM, (3, 2), np.random.default_rng(seed)) for seed in range(100)}
    assert len(written) == len(REMARKS)
    for response in written:
        assert not has_format(response)
        assert clean in {response.replace(remark, "") for remark in REMARKS}


def test_misreading_is_one_way() -> None:
    assert MISREADINGS == {1: 7, 3: 8, 4: 9, 5: 6}
    assert not MISREADINGS.keys() & MISREADINGS.values()


def test_the_public_teacher_is_wrong_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    read_as: dict[int, Counter[int]] = {digit: Counter() for digit in range(10)}
    shown = []
    for _ in range(6000):
        digits = tuple(int(digit) for digit in rng.integers(10, size=2))
        response = PUBLIC.respond(SUM, digits, rng)
        shown.append((Scene("", SUM, digits, b""), response))
        for digit, read in zip(digits, read_digits(response), strict=True):
            read_as[digit][read] += 1
    for digit, counts in read_as.items():
        other = MISREADINGS.get(digit)
        assert counts.keys() <= {digit, other}
        assert counts[other or -1] / counts.total() == pytest.approx(0.7 if other else 0, abs=0.05)
    faults = measure_faults(shown)
    assert faults.wrong_digits == pytest.approx(0.28, abs=0.015)
    assert faults.broken_format == pytest.approx(0.04, abs=0.01)
    assert faults.slips == pytest.approx(0.10, abs=0.015)
    assert faults.wrong_answers > faults.slips


def test_faults_are_measured_on_texts() -> None:
    scene = Scene("", SUM, (3, 2), b"")
    right, misread = demonstrate(SUM, (3, 2), "5").text, demonstrate(SUM, (8, 2), "10").text
    slip = demonstrate(SUM, (3, 2), "6").text
    broken = right.replace("</think>\n", "")
    faults = measure_faults([(scene, text) for text in (right, misread, slip, broken)])
    assert (faults.wrong_digits, faults.broken_format) == (0.125, 0.25)
    assert (faults.slips, faults.wrong_answers) == (0.3333, 0.6667)
