r"""Reads mathematics: `\frac{1}{2}x^2` becomes the formula `1 2 / 'x 2 ^ *`.

A formula is in postfix notation, its tokens separated by spaces: numbers, symbols (`'x`, `'x_1`),
the constants `pi`, `e` and `i`, operators and functions; a loop with a stack evaluates it. The
grammar is that of answers, in LaTeX or typed: products without a sign, `sin 2x`, `2^-1`, `sqrt(2)`,
mixed numbers. It refuses what people read in two ways (`a/bc`, `sin x/2`, `x2`, `f(x)`) instead of
guessing; only a fraction of two numbers goes first: `1/2x` is half of x.
"""

from collections.abc import Callable

from prism_trainer.rewards.lexer import FUNCTIONS, tokenize

MAX_DEPTH = 24
"""Formulas nested deeper are refused: they must not exhaust the stack."""

_CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_CONSTANTS = {"\N{GREEK SMALL LETTER PI}": "pi", "e": "e", "i": "i"}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_ACCENTS = {
    **{"overline": "bar", "bar": "bar", "overrightarrow": "vec", "vec": "vec"},
    **{"widehat": "hat", "hat": "hat"},
}
_TRIGONOMETRIC = frozenset((r"\sin", r"\cos", r"\tan", r"\cot", r"\sec", r"\csc"))
_END = ""


class _Refused(Exception):
    """The text is no formula of this grammar."""


def parse_formula(text: str) -> str | None:
    """The formula that a cleaned text is as a whole, else None; linear in its length."""
    parser = _Parser(tokenize(text))
    try:
        parser.expression()
        parser.expect(_END)
    except _Refused:
        return None
    return " ".join(parser.output)


def is_closed(formula: str) -> bool:
    """Whether a formula is a number: without symbols."""
    return "'" not in formula


def is_decimal(formula: str) -> bool:
    """Whether a formula has a decimal fraction in it, so that it may be rounded."""
    return "." in formula


class _Parser:
    """Recursive descent; each method reads one construct and appends its postfix form."""

    def __init__(self, tokens: list[str]) -> None:
        self.output: list[str] = []
        self._tokens, self._position = tokens, 0
        self._depth = self._open_bars = 0
        # A degree is a number in `sin 30°` and a unit, which may be left out, in `90° - x`.
        self._degrees = ["pi", "*", "180", "/"] if _TRIGONOMETRIC & set(tokens) else []

    def expression(self) -> None:
        self._term()
        while (sign := self._peek()) in ("+", "-"):
            self._advance()
            self._term()
            self.output.append(sign)

    def expect(self, token: str) -> None:
        if self._advance() != token:
            raise _Refused

    def _peek(self, ahead: int = 0) -> str:
        position = self._position + ahead
        return self._tokens[position] if position < len(self._tokens) else _END

    def _advance(self) -> str:
        token = self._peek()
        self._position += 1
        return token

    def _take(self, token: str) -> bool:
        found = self._peek() == token
        self._position += found
        return found

    def _term(self) -> None:
        self._signed(self._product)
        while (sign := self._peek()) in ("*", "/"):
            self._advance()
            self._signed(self._product if sign == "*" else self._divisor)
            self.output.append(sign)

    def _signed(self, operand: Callable[[], None]) -> None:
        negative = False
        while self._peek() in ("+", "-"):
            negative ^= self._advance() == "-"
        operand()
        if negative:
            self.output.append("neg")

    def _product(self) -> None:
        if not self._number_over_number():
            self._power()
        self._more_factors(lambda: self._starts_factor())

    def _divisor(self) -> None:
        self._power()
        if self._starts_factor():
            raise _Refused

    def _more_factors(self, goes_on: Callable[[], bool]) -> None:
        while goes_on():
            self._power()
            self.output.append("*")

    def _number_over_number(self) -> bool:
        """`1/2`, and the mixed number `2\\frac{1}{2}`."""
        ahead = [self._peek(n) for n in range(8)]
        if ahead[1] == "/" and _is_number(ahead[0]) and _is_number(ahead[2]):
            if ahead[3] in ("^", "!"):
                return False
            self.output += [ahead[0], ahead[2], "/"]
            self._position += 3
            return True
        whole, top, bottom = ahead[0], ahead[3], ahead[6]
        if ahead[1:3] + ahead[4:6] + ahead[7:] != [r"\frac", "{", "}", "{", "}"]:
            return False
        if not (whole.isdecimal() and top.isdecimal() and bottom.isdecimal()):
            return False
        self.output += [whole, top, bottom, "/", "+"]
        self._position += 8
        return True

    def _starts_factor(self) -> bool:
        """A number never does: `H2O` and `1 234` are no products."""
        token = self._peek()
        if token == "|":
            return not self._open_bars
        closes = token in (r"\rfloor", r"\rceil")
        return token in _CLOSING or token.isalpha() or (token.startswith("\\") and not closes)

    def _power(self) -> None:
        self._primary()
        while (sign := self._peek()) in ("!", "%", "\N{DEGREE SIGN}"):
            self._advance()
            self.output += {"!": ["!"], "%": ["100", "/"]}.get(sign, self._degrees)
        if self._take("^"):
            self._nested(lambda: self._signed(self._power))
            self.output.append("^")

    def _nested(self, construct: Callable[[], None]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused
        construct()
        self._depth -= 1

    def _primary(self) -> None:
        token = self._advance()
        if _is_number(token):
            self.output.append(token)
        elif token.isalpha():
            self._symbol(token)
        elif token in _CLOSING:
            self._nested(lambda: self._group(_CLOSING[token]))
            self.output += {r"\lfloor": ["floor"], r"\lceil": ["ceil"]}.get(token, [])
        elif token == "|":
            self._nested(self._absolute)
        elif token.startswith("\\"):
            self._nested(lambda: self._command(token[1:]))
        else:
            raise _Refused

    def _group(self, closing: str) -> None:
        bars, self._open_bars = self._open_bars, 0
        self.expression()
        self.expect(closing)
        self._open_bars = bars

    def _absolute(self) -> None:
        self._open_bars += 1
        self.expression()
        self.expect("|")
        self._open_bars -= 1
        self.output.append("abs")

    def _symbol(self, letter: str) -> None:
        if self._take("_"):
            self.output.append(f"'{letter}_{self._label()}")
        elif letter in ("f", "g", "h") and self._peek() == "(":
            raise _Refused
        else:
            self.output.append(_CONSTANTS.get(letter, f"'{letter}"))

    def _label(self) -> str:
        """What stands below a letter or under an accent: one token, or several in braces."""
        token = self._advance()
        if token != "{":
            if _is_number(token) or token.isalpha():
                return token
            raise _Refused
        name = []
        while (token := self._advance()) != "}":
            if token in (_END, "{"):
                raise _Refused
            name.append(token)
        return "".join(name)

    def _command(self, name: str) -> None:
        if name in ("frac", "binom"):
            self._primary()
            self._primary()
            self.output.append("/" if name == "frac" else name)
        elif name == "sqrt":
            self._index()
            self._primary()
            self.output.append("root")
        elif name in _ACCENTS and self._peek(1).isalpha():
            self.output.append(f"'{_ACCENTS[name]}({self._label()})")
        elif name in FUNCTIONS:
            self._function(name)
        else:
            raise _Refused

    def _index(self) -> None:
        if self._take("["):
            self._group("]")
        else:
            self.output.append("2")

    def _function(self, name: str) -> None:
        """`sin x`, `sin^2 x`, `log_2 x`: base and power stand before the argument they follow."""
        base = self._aside("_", self._primary)
        power = self._aside("^", lambda: self._signed(self._primary))
        if power == ["1", "neg"] and name in _INVERSE:
            name, power = _INVERSE[name], []
        if base and name != "log":
            raise _Refused
        self._argument()
        if name in ("log", "lg"):
            self.output += [*(base or ["10"]), "log"]
        else:
            self.output.append(name)
        if power:
            self.output += [*power, "^"]

    def _aside(self, sign: str, operand: Callable[[], None]) -> list[str]:
        if not self._take(sign):
            return []
        kept, self.output = self.output, []
        operand()
        found, self.output = self.output, kept
        return found

    def _argument(self) -> None:
        if self._peek() in _CLOSING:
            self._primary()
            return
        self._power()
        functions = {"\\" + name for name in FUNCTIONS}
        self._more_factors(lambda: self._starts_factor() and self._peek() not in functions)
        if self._peek() == "/":
            raise _Refused


def _is_number(token: str) -> bool:
    return token[:1].isdecimal() or token[:1] == "."
