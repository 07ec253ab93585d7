"""Brings an answer into plain text: no LaTeX or Markdown wrappers, one spelling per symbol."""

import re

_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{MIDDLE DOT}": "*",
        "\N{DOT OPERATOR}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{FRACTION SLASH}": "/",
        "\N{SUPERSCRIPT TWO}": "^2",
        "\N{SUPERSCRIPT THREE}": "^3",
        "\N{LESS-THAN OR EQUAL TO}": "<=",
        "\N{GREATER-THAN OR EQUAL TO}": ">=",
        "\N{NOT EQUAL TO}": "!=",
        "\N{DEGREE CELSIUS}": "\N{DEGREE SIGN}C",
        "\N{DEGREE FAHRENHEIT}": "\N{DEGREE SIGN}F",
        "\N{RING OPERATOR}": "\N{DEGREE SIGN}",
        "\N{IDEOGRAPHIC FULL STOP}": ".",
        "\N{IDEOGRAPHIC COMMA}": ",",
        "\N{VULGAR FRACTION ONE HALF}": " 1/2",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{OHM SIGN}": "\N{GREEK CAPITAL LETTER OMEGA}",
        "\N{MICRO SIGN}": "\N{GREEK SMALL LETTER MU}",
        "\N{ZERO WIDTH SPACE}": None,
        "\N{ZERO WIDTH NO-BREAK SPACE}": None,
        "\N{FULLWIDTH YEN SIGN}": "\N{YEN SIGN}",
        # The other full-width forms of ASCII lie in one block, in ASCII's order.
        **{chr(0xFEE0 + code): chr(code) for code in range(0x21, 0x7F)},
    }
)

_COMMANDS = {
    "approx": "\N{ALMOST EQUAL TO}",
    "angle": "\N{ANGLE}",
    "cdot": "*",
    "circ": "\N{DEGREE SIGN}",
    "degree": "\N{DEGREE SIGN}",
    "dfrac": r"\frac",
    "displaystyle": "",
    "div": "/",
    "ge": ">=",
    "geq": ">=",
    "infty": "\N{INFINITY}",
    "langle": "\N{MATHEMATICAL LEFT ANGLE BRACKET}",
    "le": "<=",
    "left": "",
    "leq": "<=",
    "mu": "\N{GREEK SMALL LETTER MU}",
    "ne": "!=",
    "neq": "!=",
    "Omega": "\N{GREEK CAPITAL LETTER OMEGA}",
    "pi": "\N{GREEK SMALL LETTER PI}",
    "quad": " ",
    "rangle": "\N{MATHEMATICAL RIGHT ANGLE BRACKET}",
    "right": "",
    "tfrac": r"\frac",
    "times": "*",
    "triangle": "\N{WHITE UP-POINTING TRIANGLE}",
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_STYLED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|operatorname|mbox)\{([^{}]*)\}")
_BOXED = re.compile(r"\\(?:boxed|fbox)\{((?:[^{}]|\{[^{}]*\})*)\}")
_DISPLAY = re.compile(r"\\[()\[\]]")
_ESCAPED = re.compile(r"\\([%#&_{}])")
_THIN_SPACE = re.compile(r"\\[ ,;:]|~")
_OPERAND = r"\s*(?:\{\s*([+-]?[\d.]+)\s*\}|(\d))"
_FRACTION = re.compile(rf"\\frac{_OPERAND}{_OPERAND}")
_SCRIPT = re.compile(r"([_^])\{([+-]?\w+|\N{DEGREE SIGN})\}(?!\w)")

_MONEY = "\N{FULLWIDTH DOLLAR SIGN}"
"""Stands for an escaped dollar while the others are formulas; occurs in no translated text."""
_WHOLE_FORMULA = re.compile(r"\$([^$]+)\$")
# As in Pandoc: no space inside the dollars and no digit behind, so `$3, $4` stays money.
_FORMULA = re.compile(r"\$(?=\S)([^$]*\S)\$(?!\d)")
_BOLD = re.compile(r"(?<!\w)\*\*(?=\S)(.+?)(?<=\S)\*\*(?!\w)")
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:(?:final|correct|right|best) )?"
    r"(?:answer|option|choice)(?: is\b:?| ?[:=]) ?(?=\S)",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """The answer without wrappers, lead-in and final stop; empty if nothing is inside them."""
    text = text.translate(_CHARACTERS).replace("{,}", ",")
    if "\\" in text or "~" in text:
        text = _plain_latex(text.replace(r"\$", _MONEY))
    if "$" in text:
        text = text.replace("$$", "")
        whole = _WHOLE_FORMULA.fullmatch(text.strip())
        text = whole[1] if whole else _FORMULA.sub(r"\1", text)
    text = text.replace(_MONEY, "$")
    if "{" in text:
        text = _SCRIPT.sub(r"\1\2", text)
    text = text.replace("^\N{DEGREE SIGN}", "\N{DEGREE SIGN}").replace("`", "")
    text = _LEAD_IN.sub("", " ".join(_BOLD.sub(r"\1", text).split()), count=1)
    # An answer can be a sign: `=`, or `.` for a decimal point.
    return text.lstrip(" =\N{ALMOST EQUAL TO}").rstrip(" .,;") or text


def _plain_latex(text: str) -> str:
    text = _DISPLAY.sub("", text)
    text = _THIN_SPACE.sub(" ", text.replace(r"\!", ""))
    text = _ESCAPED.sub(r"\1", _COMMAND.sub(_plain_command, text))
    while (inner := _STYLED.sub(r"\1", text)) != text:
        text = inner
    return _FRACTION.sub(_plain_fraction, _BOXED.sub(r"\1", text))


def _plain_command(match: re.Match[str]) -> str:
    return _COMMANDS.get(match[1], match[0])


def _plain_fraction(match: re.Match[str]) -> str:
    """With a space before, so that a whole number in front makes a mixed number."""
    return f" {match[1] or match[2]}/{match[3] or match[4]}"


_NOISE = re.compile(r'"|(?<=[^\W\d_]{2})[!?]|(?<!\d)\.(?!\d)')
_LOOSE_SPACE = re.compile(r"\s+(?=[^\w\s])|(?<=[^\w\s])\s+|(?<=\d)\s+(?=[^\W\d_])")


def text_key(text: str) -> str:
    """Normal form in which two texts are compared: small letters, no quotes, stops or loose spaces.

    Signs that carry meaning stay: the point of 3.5, the prime of A', the factorial of n!.
    """
    return _LOOSE_SPACE.sub("", _NOISE.sub("", text.casefold())) or text
