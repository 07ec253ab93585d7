"""Brings an answer into plain text: no LaTeX or Markdown wrappers, one spelling per symbol."""

import re
import unicodedata

from prism_trainer.rewards.signs import CHARACTERS, COMMANDS

_RAISED = "\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}"
_SUPERSCRIPTS = re.compile(
    f"[{_RAISED}\N{SUPERSCRIPT ZERO}\N{SUPERSCRIPT FOUR}-\N{SUPERSCRIPT NINE}]+"
)
_VULGAR_FRACTION = re.compile(
    "([0-9]?)([\N{VULGAR FRACTION ONE QUARTER}-\N{VULGAR FRACTION THREE QUARTERS}"
    "\N{VULGAR FRACTION ONE SEVENTH}-\N{VULGAR FRACTION SEVEN EIGHTHS}])"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|textnormal|mbox|operatorname"
    r"|mathrm|mathbf|mathit|mathsf|mathbb|boldsymbol|bm|rm)\s*\{"
)
_OLD_STYLE = re.compile(r"\{\s*\\(?:rm|bf|it)\s+([^{}]*)\}")
_DISPLAY = re.compile(r"\\[()\[\]]")
_ESCAPED = re.compile(r"\\([%#&_{}])")
_THIN_SPACE = re.compile(r"\\[ ,;:]|~")
_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[A-Za-z])")
_SCRIPT = re.compile(r"([_^])\{([+-]?\d+|\w|\N{DEGREE SIGN})\}(?!\w)")

NEW_ROW = "\N{SYMBOL FOR NEWLINE}"
"""Stands for LaTeX's `\\\\` in a cleaned text."""

_MONEY = "\N{FULLWIDTH DOLLAR SIGN}"
"""Stands for an escaped dollar while the others are formulas; occurs in no translated text."""
_WHOLE_FORMULA = re.compile(r"\$([^$]+)\$")
# As in Pandoc: no space inside the dollars and no digit behind, so `$3, $4` stays money.
_FORMULA = re.compile(r"\$(?=\S)([^$]*\S)\$(?!\d)")
_BOLD = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_SPELLINGS = (
    ("^\N{DEGREE SIGN}", "\N{DEGREE SIGN}"),
    ("+\N{INFINITY}", "\N{INFINITY}"),
    ("`", ""),
)
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|correct|right|best) )?"
    r"(?:answer|option|choice)(?: is\b:?| ?[:=]) ?(?=\S)"
    r"|答案[是为:]+ ?(?=\S)|(?:故|应)?选(?:项|择)?[:]? ?(?=[(\[]?[A-J](?![A-Za-z]))",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """The answer without wrappers, lead-in and final stop; empty if nothing is inside them."""
    text = _VULGAR_FRACTION.sub(_plain_fraction, _SUPERSCRIPTS.sub(_plain_power, text))
    text = text.translate(CHARACTERS).replace("{,}", ",")
    if "\\" in text or "~" in text:
        text = _plain_latex(text.replace(r"\$", _MONEY))
    if "$" in text:
        text = text.replace("$$", "")
        whole = _WHOLE_FORMULA.fullmatch(text.strip())
        text = whole[1] if whole else _FORMULA.sub(r"\1", text)
    text = text.replace(_MONEY, "$")
    if "{" in text:
        text = _SCRIPT.sub(r"\1\2", text)
    for written, meant in _SPELLINGS:
        text = text.replace(written, meant)
    text = _LEAD_IN.sub("", " ".join(_BOLD.sub(r"\1", text).split()), count=1)
    # An answer can be a sign: `=`, or `.` for a decimal point.
    return text.lstrip(" =\N{ALMOST EQUAL TO}").rstrip(" .,;") or text


def _plain_power(match: re.Match[str]) -> str:
    return "^" + unicodedata.normalize("NFKC", match[0]).replace("\N{MINUS SIGN}", "-")


def _plain_fraction(match: re.Match[str]) -> str:
    """With a space behind a whole number: a mixed number."""
    return match[1] + " " * bool(match[1]) + unicodedata.normalize("NFKC", match[2])


def _plain_latex(text: str) -> str:
    if r"\begin" not in text:
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)
    text = _DISPLAY.sub("", text.replace(r"\\", NEW_ROW))
    text = _OLD_STYLE.sub(r"\1", _THIN_SPACE.sub(" ", text.replace(r"\!", "")))
    text = _ESCAPED.sub(r"\1", _COMMAND.sub(_plain_command, text))
    return _unwrapped(text)


def _plain_command(match: re.Match[str]) -> str:
    return COMMANDS.get(match[1], match[0])


def _unwrapped(text: str) -> str:
    while match := _WRAPPER.search(text):
        end = _closing_brace(text, match.end())
        text = text[: match.start()] + text[match.end() : end] + text[end + 1 :]
    return text


def _closing_brace(text: str, start: int) -> int:
    """Where the brace closes that was opened before `start`; the text's end if it never does."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


_SUBSCRIPT = re.compile(r"(?<=[^\W\d_])_(?=\d)")
_NOISE = re.compile(r'"|(?<=[^\W\d_]{2})[!?]|(?<!\d)\.(?!\d)')
_LOOSE_SPACE = re.compile(r"\s+(?=[^\w\s])|(?<=[^\w\s])\s+|(?<=\d)\s+(?=[^\W\d_])")


def text_key(text: str) -> str:
    """Normal form in which two texts are compared: small letters, no quotes, stops or loose spaces.

    A digit below the line counts like one on it (`H_2O`, `x_1`). Signs that carry meaning stay: the
    point of 3.5, the prime of A', the factorial of n!.
    """
    plain = _SUBSCRIPT.sub("", _NOISE.sub("", text.casefold()))
    return _LOOSE_SPACE.sub("", plain) or text
