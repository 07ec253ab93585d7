r"""Cuts mathematics into tokens and tells it from prose.

Tokens are strings: numbers (`12`, `.5`), letters (`x`), commands with their backslash (`\frac`; a
typed `sqrt` or `sin` too) and signs.
"""

import re

FUNCTIONS = frozenset(
    [
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan"),
        *("sinh", "cosh", "tanh", "log", "lg", "ln", "exp", "abs"),
    ]
)
_WORDS = "|".join(sorted([*FUNCTIONS, "sqrt", "pi"], key=len, reverse=True))
_GREEK = "\N{GREEK SMALL LETTER ALPHA}-\N{GREEK SMALL LETTER OMEGA}\N{GREEK CAPITAL LETTER ALPHA}-"
_TOKEN = re.compile(
    rf"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+|\\[A-Za-z]+|(?<![A-Za-z])(?:{_WORDS})(?![A-Za-z])"
    rf"|[A-Za-z{_GREEK}\N{{GREEK CAPITAL LETTER OMEGA}}]|[-+*/^_!|()\[\]{{}}\N{{SQUARE ROOT}}"
    r"\N{DEGREE SIGN}%])"
)
_TYPED_COMMANDS = FUNCTIONS | {"sqrt"}
_TYPED = {"pi": "\N{GREEK SMALL LETTER PI}", "\N{SQUARE ROOT}": r"\sqrt"}
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(?:(\d)|(?=\{))")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")
_WORD = re.compile(rf"(?<![\\A-Za-z])(?!(?:{_WORDS})(?![A-Za-z]))[A-Za-z]{{4,}}")
_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d[^}]*\}\s*\{\s*d\s*[A-Za-z]")
"""Not a quotient from which d cancels."""
_RANGE = re.compile(r"\d+(?:-\d+)+")
"""A score, a date, pages: not the difference."""


def tokenize(text: str) -> list[str]:
    """The tokens of a cleaned text; none if it is prose or has a sign that mathematics has not.

    Letters are small unless one of them occurs in both cases (`M - m`), or is not the constant that
    its small letter is (`E`, `I`).
    """
    if _WORD.search(text) or _DERIVATIVE.search(text) or _RANGE.fullmatch(text):
        return []
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text).replace("**", "^")
    tokens = _cut(_SHORT_FRACTION.sub(_with_braces, text).rstrip())
    letters = {token for token in tokens if token.isalpha() and token.isascii()}
    if len(letters) > 1 and letters.issuperset(set(tokens) - {"!"}):
        return []
    if not any(letter.swapcase() in letters for letter in letters):
        tokens = [token.lower() if token in letters - {"E", "I"} else token for token in tokens]
    return tokens


def _cut(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return []
        token = _TYPED.get(match[1], match[1])
        tokens.append("\\" + token if token in _TYPED_COMMANDS else token)
        position = match.end()
    return tokens


def _with_braces(match: re.Match[str]) -> str:
    bottom = f"{{{match[2]}}}" if match[2] else ""
    return rf"\frac{{{match[1]}}}{bottom}"
