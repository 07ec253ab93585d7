"""Multiple-choice answers: a letter with or without the option's text, and several letters."""

import re
from dataclasses import dataclass

_WORD = r"(?:(?:the )?(?:option|choice|answer) )?"
_LETTER = re.compile(rf"(?i:{_WORD})[(\[]?([A-J])[)\]]?")
_IS_RIGHT = r"(?: is (?:the )?(?:correct|right)(?: (?:one|option|choice|answer))?)?"
_LOOSE_LETTER = re.compile(rf"{_WORD}[(\[]?([A-J])[)\]]?:?{_IS_RIGHT}", re.IGNORECASE)
# `(A) = 5` and `(A)(B)` are about something called A, they do not choose it.
_LABELLED = re.compile(
    rf"(?i:{_WORD})(?:[(\[]([A-Ja-j])[)\]](?!\s*[=^*/,;])(?![(+])|([A-J])(?:\)|\.(?![A-Za-z])))"
    r"\s*(\S.*)"
)
_LABELLED_BY_COLON = re.compile(rf"(?i:{_WORD})([A-J]): (\S.*)")
_ANY_LABEL = re.compile(r"(?:^|(?<=[\s;,]))(?:\([A-Ja-j]\)|[A-J](?:[.)](?=[\s\d])|:(?=\s)))")
_ONE = r"[(\[]?[A-J][)\]]?"
_LETTERS = re.compile(rf"{_ONE}(?:(?:[\s,;&]|and\b)*{_ONE})+")


@dataclass(frozen=True, slots=True)
class Choice:
    """An option's letter and, where it was given, its text."""

    letter: str
    text: str = ""


def read_choice(text: str) -> Choice | None:
    """The option that a cleaned text clearly is: `A`, `(A)`, `option A`, `(A) 5`, `A. cat`.

    Two labels make no choice: `(A) 3 (B) 4` has two parts, `(A) or (B)` does not decide.
    """
    if match := _LETTER.fullmatch(text):
        return Choice(match[1])
    match = _LABELLED.fullmatch(text)
    if match is None or len(_ANY_LABEL.findall(text)) > 1:
        return None
    return Choice((match[1] or match[2]).upper(), match[3])


def read_predicted_choice(text: str) -> Choice | None:
    """Like `read_choice`, for a text that answers a multiple-choice question: `a`, `A: cat` too."""
    if match := _LOOSE_LETTER.fullmatch(text):
        return Choice(match[1].upper())
    match = _LABELLED_BY_COLON.fullmatch(text)
    if match and len(_ANY_LABEL.findall(text)) == 1:
        return Choice(match[1], match[2])
    return read_choice(text)


def read_letters(text: str) -> str:
    """`AC` for a text that is nothing but these letters (`A, C`, `(A) and (C)`), else ""."""
    if not _LETTERS.fullmatch(text):
        return ""
    return "".join(character for character in text if "A" <= character <= "J")
