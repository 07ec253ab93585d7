r"""What the formula grammar reads, what it refuses, and that formulas are evaluated right."""

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_trainer.rewards.cleaning import clean
from prism_trainer.rewards.evaluator import POINTS, evaluate
from prism_trainer.rewards.formulas import MAX_DEPTH, parse_formula


def formula_of(text: str) -> str:
    formula = parse_formula(clean(text))
    assert formula is not None, text
    return formula


def is_close(value: str, exact: Fraction) -> bool:
    """To 200 digits."""
    return abs(Fraction(value) - exact) <= abs(exact) / 10**200


def value_of(text: str) -> complex:
    """The value of a text that is a number."""
    (value,) = evaluate(formula_of(text))
    assert value is not None
    return complex(float(value[0]), float(value[1]))


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        pytest.param("2 + 3*4", "2 3 4 * +", id="products before sums"),
        pytest.param("8/4/2", "8 4 / 2 /", id="quotients from the left"),
        pytest.param("-x^2", "'x 2 ^ neg", id="powers before signs"),
        pytest.param("2^3^2", "2 3 2 ^ ^", id="powers from the right"),
        pytest.param("2^-1", "2 1 neg ^", id="negative power"),
        pytest.param("x^2y", "'x 2 ^ 'y *", id="power of one token"),
        pytest.param(r"\frac12x", "1 2 / 'x *", id="fraction without braces"),
        pytest.param("1/2x", "1 2 / 'x *", id="fraction of two numbers"),
        pytest.param("1/2^2", "1 2 2 ^ /", id="no fraction of two numbers"),
        pytest.param(r"2\frac{1}{2}x", "2 1 2 / + 'x *", id="mixed number"),
        pytest.param(r"2\frac{x}{2}", "2 'x 2 / *", id="no mixed number"),
        pytest.param(r"\sqrt2", "2 2 root", id="root without braces"),
        pytest.param(r"\sqrt[3]{x}", "3 'x root", id="cube root"),
        pytest.param("√12", "2 12 root", id="root sign"),
        pytest.param(r"\sin 2x\cos x", "2 'x * sin 'x cos *", id="argument ends at a function"),
        pytest.param(r"\sin^2 x", "'x sin 2 ^", id="power of a function"),
        pytest.param(r"\sin^{-1} x", "'x arcsin", id="inverse function"),
        pytest.param(r"\log_2 8", "8 2 log", id="base"),
        pytest.param(r"\lg x", "'x 10 log", id="decimal logarithm"),
        pytest.param("||x|-1|", "'x abs 1 - abs", id="nested bars"),
        pytest.param("|x||y|", "'x abs 'y abs *", id="bars in a row"),
        pytest.param("x_{12}", "'x_12", id="subscript"),
        pytest.param(r"\vec{AB}", "'vec(ab)", id="accent"),
        pytest.param("X+1", "'x 1 +", id="capital letter"),
        pytest.param("M-m", "'M 'm -", id="letter in both cases"),
        pytest.param("\N{GREEK CAPITAL LETTER DELTA}", "'Δ", id="Greek capital"),
        pytest.param("2e", "2 e *", id="Euler's number"),
        pytest.param("1,234x", "1234 'x *", id="thousands"),
        pytest.param("5!", "5 !", id="factorial"),
    ],
)
def test_a_formula_is_read_in_postfix_notation(text: str, formula: str) -> None:
    assert formula_of(text) == formula


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("the red cube", id="prose"),
        pytest.param("AB", id="letters alone"),
        pytest.param("Yes!", id="exclamation"),
        pytest.param("H2O", id="number behind a letter"),
        pytest.param("1 234", id="number behind a number"),
        pytest.param("a/bc", id="product below a slash"),
        pytest.param("sin x/2", id="slash behind a bare argument"),
        pytest.param("f(x)", id="unknown function"),
        pytest.param("a'", id="prime"),
        pytest.param("101_2", id="base of a number"),
        pytest.param("2020-01-05", id="date"),
        pytest.param(r"\frac{dy}{dx}", id="derivative"),
        pytest.param(r"\int_0^1 x dx", id="integral"),
        pytest.param(r"\unknown{2}", id="unknown command"),
        pytest.param("2+", id="operand is missing"),
        pytest.param("(2", id="bracket is missing"),
        pytest.param("2)", id="bracket too many"),
        pytest.param("(2]", id="brackets that differ"),
        pytest.param("|2", id="bar is missing"),
        pytest.param(r"\frac{1}", id="denominator is missing"),
        pytest.param("x_{1", id="open subscript"),
        pytest.param("__import__('os')", id="code"),
        pytest.param("1, 2", id="list"),
    ],
)
def test_what_has_no_or_two_readings_is_refused(text: str) -> None:
    assert parse_formula(clean(text)) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param(r"\sin 30^\circ", 0.5, id="degrees"),
        pytest.param(r"\cos\pi", -1, id="radians"),
        pytest.param(r"\tan\frac{\pi}{4}", 1, id="tangent"),
        pytest.param(r"\cot 45°", 1, id="cotangent"),
        pytest.param(r"\sec 60°", 2, id="secant"),
        pytest.param(r"\csc 30°", 2, id="cosecant"),
        pytest.param(r"\arcsin 1", math.pi / 2, id="inverse sine"),
        pytest.param(r"\arccos 0", math.pi / 2, id="inverse cosine"),
        pytest.param(r"\arctan 1", math.pi / 4, id="inverse tangent"),
        pytest.param(r"\sinh 1", math.sinh(1), id="hyperbolic sine"),
        pytest.param(r"\cosh 1", math.cosh(1), id="hyperbolic cosine"),
        pytest.param(r"\tanh 1", math.tanh(1), id="hyperbolic tangent"),
        pytest.param(r"\ln 2", math.log(2), id="natural logarithm"),
        pytest.param(r"\log 1000", 3, id="decimal logarithm"),
        pytest.param(r"\log_2 32", 5, id="logarithm with base"),
        pytest.param(r"\exp 1", math.e, id="exponential function"),
        pytest.param("abs(-3)", 3, id="absolute value"),
        pytest.param(r"\sqrt[3]{-27}", -3, id="real root"),
        pytest.param(r"\sqrt{-1}", 1j, id="imaginary root"),
        pytest.param(r"\lfloor -2.5 \rfloor", -3, id="floor"),
        pytest.param(r"\lceil -2.5 \rceil", -2, id="ceiling"),
        pytest.param(r"\lfloor \log 1000 \rfloor", 3, id="floor on the step"),
        pytest.param(r"\binom{6}{2}", 15, id="binomial"),
        pytest.param("5!", 120, id="factorial"),
        pytest.param("50%", 0.5, id="percent"),
        pytest.param("e^{i\\pi}", -1, id="Euler's identity"),
    ],
)
def test_a_number_has_its_value(text: str, value: complex) -> None:
    assert value_of(text) == pytest.approx(value, rel=1e-15, abs=1e-15)


@pytest.mark.parametrize("text", ["1/0", r"\ln 0", "0^{-1}", "(-1)!", r"\frac{0}{0}"])
def test_what_is_undefined_has_no_value(text: str) -> None:
    assert evaluate(formula_of(text)) == [None]


def test_a_symbol_has_the_same_values_in_every_formula() -> None:
    x, twice, y = evaluate("'x"), evaluate("'x 'x +"), evaluate("'y")
    assert len(x) == len(y) == POINTS
    for point, double, other in zip(x, twice, y, strict=True):
        assert point
        assert double
        assert is_close(double[0], 2 * Fraction(point[0]))
        assert point != other


leaves = st.integers(0, 99).map(lambda n: (str(n), Fraction(n)))


def joined(
    pair: tuple[tuple[str, Fraction | None], str, tuple[str, Fraction | None]],
) -> tuple[str, Fraction | None]:
    (left, a), sign, (right, b) = pair
    text = rf"\frac{{{left}}}{{{right}}}" if sign == "frac" else f"({left}){sign}({right})"
    if a is None or b is None or (sign in ("/", "frac") and b == 0):
        return text, None
    values = {"+": a + b, "-": a - b, "*": a * b, "": a * b}
    return text, values[sign] if sign in values else a / b


sums = st.recursive(
    leaves,
    lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "", "frac"]), inner).map(
        joined
    ),
    max_leaves=8,
)


@given(sums)
def test_arithmetic_equals_that_of_fractions(sample: tuple[str, Fraction | None]) -> None:
    text, expected = sample
    (value,) = evaluate(formula_of(text))
    if expected is None:
        assert value is None
    else:
        assert value is not None
        assert is_close(value[0], expected)


@given(st.text(alphabet="x2(){}[]|^_/*-+!\\√ sinfracqt.,'", max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    formula = parse_formula(text)
    # Towers of powers and factorials are for a process that can be killed.
    if formula and not {"^", "!"} & set(formula.split()):
        assert len(evaluate(formula)) in (1, POINTS)


def test_brackets_may_be_nested_so_deep_and_no_deeper() -> None:
    nested = "(" * MAX_DEPTH + "x" + ")" * MAX_DEPTH
    assert parse_formula(nested) == "'x"
    assert parse_formula(f"({nested})") is None
    assert parse_formula("(" * 10**6) is None


@pytest.mark.parametrize(
    "piece", ["+x", "(x)", "^x", "-", "|x|", r"\frac", r"\sin ", "x_", "{", r"\sqrt[", "1"]
)
def test_the_time_grows_with_the_length(piece: str) -> None:
    def seconds(length: int) -> float:
        text, samples = "x" + piece * length, []
        for _ in range(3):
            start = time.process_time()
            parse_formula(text)
            samples.append(time.process_time() - start)
        return min(samples)

    assert seconds(16_000) < 3 * 8 * seconds(2_000) + 1e-3
