"""The tokenizer: digits alone, specials whole, every text back as it was, short responses."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prism_trainer.digits.questions import QUESTIONS, Question
from prism_trainer.digits.teachers import demonstrate
from prism_trainer.digits.tokenizer import SPECIAL_TOKENS, build_tokenizer

TOKENIZER = build_tokenizer()


def test_vocabulary_is_small_and_begins_with_the_bytes() -> None:
    assert 357 <= len(TOKENIZER) <= 384
    assert len(SPECIAL_TOKENS) == 14
    assert max(TOKENIZER.get_vocab().values()) == len(TOKENIZER) - 1


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda t: "<|" not in t)
)
def test_any_text_comes_back_up_to_unicode_normalisation(text: str) -> None:
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_are_one_id_and_skipped_on_request(token: str) -> None:
    ids = TOKENIZER(token)["input_ids"]
    assert len(ids) == 1
    assert TOKENIZER.decode(ids) == token
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == ""


@given(st.integers(0, 10**6))
def test_every_digit_is_one_token(number: int) -> None:
    pieces = TOKENIZER.tokenize(f"= {number}.")
    assert [piece for piece in pieces if piece.isdigit()] == list(str(number))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.text)
def test_no_word_or_tag_of_a_clean_text_is_split(question: Question) -> None:
    response = demonstrate(question, (3, 5, 2), question.solve((3, 5, 2))).text
    text = question.text + response
    pieces = [
        str(TOKENIZER.decode([index])).strip(" <\n") for index in TOKENIZER(text)["input_ids"]
    ]
    assert [piece for piece in pieces if piece.isalpha()] == re.findall(r"[A-Za-z]+", text)


def test_end_of_turn_and_padding_are_qwens() -> None:
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == ("<|im_end|>", "<|endoftext|>")
