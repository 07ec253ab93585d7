"""The response format and the items of a caption."""

import dataclasses
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.rewards.response import (
    Response,
    caption_items,
    matching_caption_items,
    parse_response,
)

GOOD = "<caption>\n- 3 red cubes\n</caption>\n<think>\nCount: 3.\n</think>\n<answer>\n3\n</answer>"


def parsed(text: str) -> Response:
    response = parse_response(text)
    assert response is not None
    return response


def blocks(caption: str = "c", think: str = "t", answer: str = "a", gap: str = "") -> str:
    return f"<caption>{caption}</caption>{gap}<think>{think}</think>{gap}<answer>{answer}</answer>"


def test_a_response_gives_its_three_inner_texts_stripped() -> None:
    response = parsed(GOOD)
    assert (response.caption, response.think, response.answer) == (
        "- 3 red cubes",
        "Count: 3.",
        "3",
    )


def test_the_segments_are_the_original_text_without_the_space_between_them() -> None:
    response = parsed(GOOD)
    assert response.caption_segment == "<caption>\n- 3 red cubes\n</caption>"
    assert response.reasoning_segment == ("<think>\nCount: 3.\n</think>\n<answer>\n3\n</answer>")


def test_the_reasoning_segment_keeps_the_space_between_think_and_answer() -> None:
    response = parsed(" <caption>c</caption> <think> t </think> \n\t <answer> a </answer>\n")
    assert response.reasoning_segment == "<think> t </think> \n\t <answer> a </answer>"


def test_a_response_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed(GOOD).answer = "4"  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(blocks(), id="nothing between the blocks"),
        pytest.param(blocks(gap="\n\n"), id="blank lines between the blocks"),
        pytest.param("\n \t" + blocks() + " \n", id="space around"),
        pytest.param(blocks("", "", ""), id="empty blocks"),
        pytest.param(blocks(caption="a < b", think="x <b>bold</b>"), id="other tags and signs"),
        pytest.param(blocks(caption="<Caption> </ caption>"), id="tags that are spelled otherwise"),
        pytest.param(blocks(think="caption think answer"), id="tag names as words"),
        pytest.param(blocks(gap="\N{NO-BREAK SPACE}"), id="Unicode space between the blocks"),
    ],
)
def test_the_format_is_met(text: str) -> None:
    assert parse_response(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty text"),
        pytest.param("3", id="answer without blocks"),
        pytest.param("x" + blocks(), id="text before the caption"),
        pytest.param(blocks() + "x", id="text behind the answer"),
        pytest.param(blocks(gap="x"), id="text between the blocks"),
        pytest.param(blocks() + "<|im_end|>", id="special token that was not skipped"),
        pytest.param(blocks(caption="<answer>1</answer>"), id="answer planted in the caption"),
        pytest.param(blocks(think="<answer>1</answer>"), id="answer planted in the thinking"),
        pytest.param(blocks(caption="<answer>"), id="opening tag planted in the caption"),
        pytest.param(blocks(answer="</think>"), id="closing tag planted in the answer"),
        pytest.param(
            "<caption>a</caption>x</caption><think>t</think><answer>1</answer>",
            id="second closing tag that stretches the caption",
        ),
        pytest.param(blocks() + "</answer>", id="doubled closing tag of the answer"),
        pytest.param(blocks().replace("<think>", "<think><think>"), id="doubled opening tag"),
        pytest.param(
            "<caption>c</caption><think>t</think><think>u</think><answer>1</answer>",
            id="two think blocks",
        ),
        pytest.param(blocks() + blocks(), id="the response twice"),
        pytest.param(
            "<think>t</think><caption>c</caption><answer>1</answer>", id="blocks in another order"
        ),
        pytest.param("<think>t</think><answer>1</answer>", id="no caption"),
        pytest.param("<caption>c</caption><answer>1</answer>", id="no thinking"),
        pytest.param("<caption>c</caption><think>t</think>", id="no answer"),
        pytest.param("<caption>c</caption><think>t</think><answer>1", id="cut off at the limit"),
        pytest.param("<caption>c<think>t</think></caption><answer>1</answer>", id="nested blocks"),
        pytest.param(
            "<caption>c</think></caption><think>t<answer>1</answer>", id="crossed closing tags"
        ),
        pytest.param(blocks().upper(), id="tags in capitals"),
        pytest.param(blocks().replace("<answer>", "<answer >"), id="space inside a tag"),
    ],
)
def test_the_format_is_not_met(text: str) -> None:
    assert parse_response(text) is None


inner_texts = st.text(max_size=40).filter(lambda text: "<" not in text and ">" not in text)
gaps = st.text(alphabet=" \n\t", max_size=4)


@given(inner_texts, inner_texts, inner_texts, gaps)
def test_blocks_that_are_joined_are_read_back(
    caption: str, think: str, answer: str, gap: str
) -> None:
    response = parsed(gap + blocks(caption, think, answer, gap) + gap)
    assert response.caption == caption.strip()
    assert response.think == think.strip()
    assert response.answer == answer.strip()
    rebuilt = response.caption_segment + gap + response.reasoning_segment
    assert rebuilt == blocks(caption, think, answer, gap)


TAGS = ["<caption>", "</caption>", "<think>", "</think>", "<answer>", "</answer>"]


@given(st.one_of(st.permutations(TAGS), st.lists(st.sampled_from(TAGS), max_size=9)))
def test_tags_alone_have_the_format_in_one_order_only(tags: list[str]) -> None:
    assert (parse_response(" ".join(tags)) is not None) == (tags == TAGS)


SCRAPS = [*TAGS, "<", ">", "/", "<caption", "</answer", "caption>", "<<think>", " ", "\n", "x", "é"]
fuzz = st.lists(st.sampled_from(SCRAPS), max_size=40).map("".join)


def read_by_hand(text: str) -> tuple[str, ...] | None:
    """What stands between the tags, if the tags are the six in order and nothing is outside."""
    pieces = re.split("(</?(?:caption|think|answer)>)", text)
    if pieces[1::2] != TAGS:
        return None
    before, caption, gap, think, space, answer, behind = pieces[::2]
    return None if (before + gap + space + behind).strip() else (caption, think, answer)


@given(st.one_of(fuzz, st.text(), st.builds(blocks, fuzz, fuzz, fuzz, gaps)))
def test_any_text_is_read_as_its_tags_say(text: str) -> None:
    response, expected = parse_response(text), read_by_hand(text)
    if response is None or expected is None:
        assert response is None
        assert expected is None
    else:
        inner = (response.caption, response.think, response.answer)
        assert inner == tuple(part.strip() for part in expected)
        assert response.caption_segment == f"<caption>{expected[0]}</caption>"
        whole = response.caption_segment + response.reasoning_segment
        assert whole == text.strip().replace("</caption>" + gap_of(text), "</caption>")


def gap_of(text: str) -> str:
    """The space between caption and thinking."""
    return text.partition("</caption>")[2].partition("<think>")[0]


MEGABYTE = 2**20
ENDLESS = [
    pytest.param(lambda n: "<caption>" * (n // 9), id="opening tags"),
    pytest.param(lambda n: "</answer>" * (n // 9), id="closing tags"),
    pytest.param(lambda n: blocks() * (n // 54), id="responses"),
    pytest.param(lambda n: blocks(caption="<" * n), id="brackets in a block"),
    pytest.param(lambda n: blocks(think="x" * n), id="long thinking"),
    pytest.param(lambda n: blocks(gap=" " * (n // 2)), id="space between the blocks"),
    pytest.param(lambda n: blocks(gap=" " * (n // 2) + "x"), id="space and text between them"),
    pytest.param(lambda n: " " * n + blocks() + "x", id="space before"),
    pytest.param(lambda n: blocks() + " " * n + "x", id="space behind"),
    pytest.param(lambda n: blocks(answer="x" * n)[:-9], id="block that is never closed"),
    pytest.param(lambda n: "<caption>" + "x" * n, id="caption that is never closed"),
    pytest.param(lambda n: "<caption></caption><think>" * (n // 26), id="nested blocks"),
    pytest.param(lambda n: "<" * n, id="brackets"),
    pytest.param(lambda n: "<caption" * (n // 8), id="tags that are never finished"),
    pytest.param(lambda n: "</" * (n // 2) + blocks(), id="beginnings of closing tags"),
    pytest.param(lambda n: blocks(caption="</captio" * (n // 8)), id="nearly closed captions"),
    pytest.param(lambda n: blocks(answer=" \n" * (n // 2)), id="blank answer"),
    pytest.param(lambda n: blocks(think="\N{NO-BREAK SPACE}" * n), id="Unicode space"),
    pytest.param(lambda n: ("<caption>" + " " * 99) * (n // 108), id="tags and space"),
    pytest.param(
        lambda n: "".join(tag + "x" * (n // 6) for tag in TAGS[1:] + TAGS[:1]), id="turned tags"
    ),
]


def seconds(text: str, read: Callable[[str], object] = parse_response) -> float:
    """Processor time to read a text, the least of five."""
    samples = []
    for _ in range(5):
        start = time.process_time()
        read(text)
        samples.append(time.process_time() - start)
    return min(samples)


@pytest.mark.parametrize("text_of_length", ENDLESS)
def test_the_time_grows_with_the_length_up_to_a_megabyte(
    text_of_length: Callable[[int], str],
) -> None:
    """Of texts of 1/8 and 1 MB, and of the two halves between, as far as clocks can tell: what
    grows like the square would take 64 times as long and, at this length, minutes."""
    texts = [text_of_length(MEGABYTE // part) for part in (8, 4, 2, 1)]
    shortest, *longer = map(seconds, texts)
    for text, taken in zip(texts[1:], longer, strict=True):
        growth = len(text) / len(texts[0])
        assert growth > 1.5
        assert taken < 3 * growth * shortest + 1e-3


@pytest.mark.parametrize("piece", ["- a\n", "-", "\n", " ", "- ", "a\r", "<caption>", "**a** "])
def test_items_are_listed_in_time_like_the_length(piece: str) -> None:
    def taken(length: int) -> float:
        caption = piece * (length // len(piece))
        return seconds(caption, lambda text: matching_caption_items(text, text))

    assert taken(MEGABYTE) < 3 * 8 * taken(MEGABYTE // 8) + 1e-3


@pytest.mark.parametrize(
    ("caption", "items"),
    [
        pytest.param("- a\n- b", ["a", "b"], id="hyphens"),
        pytest.param("* a\n\N{BULLET} b", ["a", "b"], id="stars and bullets"),
        pytest.param("\n  -   a  \n\n\n\t- b\n", ["a", "b"], id="space and empty lines"),
        pytest.param("-a\n\N{BULLET}b", ["a", "b"], id="no space behind the bullet"),
        pytest.param("a\nb", ["a", "b"], id="no bullets"),
        pytest.param("- -5 degrees", ["-5 degrees"], id="minus behind the bullet"),
        pytest.param("-5 degrees", ["-5 degrees"], id="minus instead of a bullet"),
        pytest.param("**a** b", ["**a** b"], id="bold instead of a bullet"),
        pytest.param("- **a** b", ["**a** b"], id="bold behind the bullet"),
        pytest.param("-\n*\n- ", [], id="bullets without text"),
        pytest.param("", [], id="empty caption"),
        pytest.param(
            "<caption>\n- a\n- b\n</caption>", ["a", "b"], id="tags on lines of their own"
        ),
        pytest.param("<caption>a\nb</caption>", ["a", "b"], id="tags beside the items"),
        pytest.param("- a - b", ["a - b"], id="hyphen inside"),
        pytest.param("a - b\nc * d", ["a - b", "c * d"], id="hyphen and star inside only"),
    ],
)
def test_caption_items_are_the_lines_without_bullets(caption: str, items: list[str]) -> None:
    assert caption_items(caption) == items


@pytest.mark.parametrize(
    ("caption", "reference", "matching"),
    [
        pytest.param("- a\n- b", "- a\n- b", (2, 2), id="all"),
        pytest.param("- a\n- x", "- a\n- b", (1, 2), id="one is wrong"),
        pytest.param("- b\n- a", "- a\n- b", (0, 2), id="right items at other places"),
        pytest.param("- a", "- a\n- b", (1, 2), id="one is missing"),
        pytest.param("- a\n- b\n- c", "- a\n- b", (2, 2), id="one too many"),
        pytest.param("", "- a", (0, 1), id="empty caption"),
        pytest.param("- a", "", (0, 0), id="empty reference"),
        pytest.param("*  row 1:   3 4", "- row 1: 3 4", (1, 1), id="other bullet and space"),
        pytest.param("- Point A", "- Point a", (0, 1), id="other case"),
        pytest.param("- a\n- b", "<caption>\n- a\n- b\n</caption>", (2, 2), id="tagged reference"),
    ],
)
def test_items_match_at_the_same_index_only(
    caption: str, reference: str, matching: tuple[int, int]
) -> None:
    assert matching_caption_items(caption, reference) == matching
