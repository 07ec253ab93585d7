"""The reward of a response and the overlong penalty."""

import pytest

from prism_trainer.rewards.reward import Reward, RewardWeights, overlong_penalty, score, score_many
from prism_trainer.rewards.verifier import Verdict

PUBLISHED = RewardWeights()


def response(answer: str, caption: str = "- two digits") -> str:
    return f"<caption>{caption}</caption>\n<think>3 + 4</think>\n<answer>{answer}</answer>"


def test_the_default_weights_are_the_published_ones() -> None:
    assert RewardWeights(accuracy=0.8, format=0.2) == PUBLISHED


@pytest.mark.parametrize(
    ("text", "truths", "expected"),
    [
        pytest.param(response("7"), ["7"], Reward(1.0, 1.0, 1.0, Verdict.RIGHT), id="right"),
        pytest.param(response("8"), ["7"], Reward(0.2, 0.0, 1.0, Verdict.WRONG), id="wrong"),
        pytest.param(response(" "), ["7"], Reward(0.2, 0.0, 1.0, Verdict.WRONG), id="empty answer"),
        pytest.param(
            response("7" * 1024), ["7"], Reward(0.2, 0.0, 1.0, Verdict.WRONG), id="endless answer"
        ),
        pytest.param("7", ["7"], Reward(0.0, 0.0, 0.0, Verdict.WRONG), id="right without format"),
        pytest.param(
            response("8", caption="<answer>7</answer>"),
            ["7"],
            Reward(0.0, 0.0, 0.0, Verdict.WRONG),
            id="right answer planted in the caption",
        ),
        pytest.param(
            response("7") + "</answer>",
            ["7"],
            Reward(0.0, 0.0, 0.0, Verdict.WRONG),
            id="doubled closing tag",
        ),
        pytest.param(
            response("seven"),
            ["7", "seven"],
            Reward(1.0, 1.0, 1.0, Verdict.RIGHT),
            id="second truth",
        ),
        pytest.param(
            response("7"), [""], Reward(0.2, 0.0, 1.0, Verdict.UNVERIFIABLE), id="unusable truth"
        ),
        pytest.param(
            "7", [""], Reward(0.0, 0.0, 0.0, Verdict.UNVERIFIABLE), id="unusable, and no format"
        ),
    ],
)
def test_the_published_reward(text: str, truths: list[str], expected: Reward) -> None:
    assert score(text, truths, PUBLISHED) == expected


def test_a_batch_gets_the_rewards_of_its_responses() -> None:
    samples = [
        (response(r"2\sqrt{3}"), [r"\sqrt{12}"]),
        (response(r"2\sqrt{3}"), [r"\sqrt{13}"]),
        (response("7"), [""]),
        ("7", ["7"]),
    ]
    assert score_many(samples, PUBLISHED) == [
        Reward(1.0, 1.0, 1.0, Verdict.RIGHT),
        Reward(0.2, 0.0, 1.0, Verdict.WRONG),
        Reward(0.2, 0.0, 1.0, Verdict.UNVERIFIABLE),
        Reward(0.0, 0.0, 0.0, Verdict.WRONG),
    ]
    assert score_many([], PUBLISHED) == []


def test_the_weights_multiply_the_parts() -> None:
    weights = RewardWeights(accuracy=3.0, format=0.5)
    assert score(response("7"), ["7"], weights).total == 3.5
    assert score(response("8"), ["7"], weights).total == 0.5


@pytest.mark.parametrize(
    ("length", "penalty"),
    [
        pytest.param(0, 0.0, id="empty"),
        pytest.param(4095, 0.0, id="before the buffer"),
        pytest.param(4096, 0.0, id="where the buffer begins"),
        pytest.param(5120, -0.25, id="a quarter into the buffer"),
        pytest.param(8192, -1.0, id="at the limit"),
        pytest.param(12288, -2.0, id="behind the limit"),
    ],
)
def test_the_overlong_penalty_falls_linearly_through_the_buffer(
    length: int, penalty: float
) -> None:
    assert overlong_penalty(length, max_length=8192, buffer=4096, factor=1.0) == penalty


def test_the_factor_scales_the_overlong_penalty() -> None:
    assert overlong_penalty(90, max_length=100, buffer=20, factor=0.5) == -0.25
    assert overlong_penalty(90, max_length=100, buffer=20, factor=0.0) == 0.0
