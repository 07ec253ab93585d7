"""The verifier: every verdict below is stated by hand, from what a teacher would say."""

import pytest

from prism_trainer.rewards.verifier import TOO_LONG, Verdict, verify, verify_any

PUBLISHED_TABLE = [
    ("1,234", "1234", True),
    ("(1,2)", "(1, 2)", True),
    ("(1,2)", "(12)", False),
    ("[1, 2)", "(1, 2]", False),
    ("{1, 2}", "(1, 2)", False),
    ("5 kg", "5 lb", False),
    ("10 cm", "10 mm", False),
    ("12 cm", "12 m", False),
    ("50%", "50", False),
    ("50%", "0.5", True),
    ("x=3.5", "x=35", False),
    ("(B) 5", "(A) 5", False),
    ("5", "(A) 5", True),
    ("A", "A. cat", True),
    (r"\frac{1}{2}", "0.5", True),
    ("1/2", "0.5", True),
    (r"$\dfrac{1}{2}$", "1/2", True),
    ("0.3333", "1/3", False),
    ("(1) 3 (2) 4", "3; 4", True),
]
"""What the reference code was measured on; seven of its verdicts on single rows were wrong."""

NUMBERS = [
    ("7", "7", True),
    ("7", "8", False),
    ("07", "7", True),
    ("7.0", "7", True),
    ("7.", "7", True),
    (".5", "0.5", True),
    ("+7", "7", True),
    ("-7", "7", False),
    ("- 7", "-7", True),
    ("\N{MINUS SIGN}7", "-7", True),
    ("1,234,567.5", "1234567.5", True),
    ("1{,}234", "1234", True),
    ("12,34", "1234", False),
    ("1, 234", "1,234", False),
    ("0,500", "500", False),
    ("1.234", "1,234", False),
    ("2/4", "1/2", True),
    ("-1/2", "-0.5", True),
    ("1/-2", "-0.5", True),
    (r"-\frac{1}{2}", "-0.5", True),
    (r"\frac{-1}{2}", "-0.5", True),
    (r"\frac12", "0.5", True),
    (r"\tfrac{3}{4}", "0.75", True),
    (r"1\frac{1}{2}", "1.5", True),
    ("1 1/2", "3/2", True),
    ("-1 1/2", "-1.5", True),
    ("2\N{VULGAR FRACTION ONE HALF}", "2.5", True),
    ("11/2", "1 1/2", False),
    ("1/0", "1", False),
    ("1/0", "1/0", True),
    ("0.3333333", "1/3", True),
    ("0.333333", "1/3", False),
    ("0.00000001", "0", False),
    ("0", "0.00000001", False),
    ("10000001", "10000000", False),
    ("3.14159265", "3.14159266", True),
    ("3.14", "3.14159265", False),
    ("1.2e3", "1200", True),
    ("2.5e-3", "0.0025", True),
    (r"3 \times 10^{5}", "300000", True),
    ("3\N{MULTIPLICATION SIGN}10^-2", "0.03", True),
    ("10^3", "1000", True),
    ("10^3", "103", False),
    ("2^3", "8", False),  # Powers are for the symbolic comparison.
    ("1e999999999", "1", False),
    ("5!", "5", False),
    ("3-4", "34", False),
    ("1.2.3", "1.23", False),
    ("3:4", "3 : 4", True),
    ("3:4", "34", False),
    ("(5)", "5", True),
    ("\N{ALMOST EQUAL TO} 3.5", "3.5", True),
    ("\N{FULLWIDTH DIGIT FIVE}", "5", True),
]

UNITS = [
    ("5 kg", "5", True),
    ("5", "5 kg", True),
    ("5kg", "5 kg", True),
    ("5 KG", "5 kg", True),
    ("5 kilograms", "5 kg", True),
    ("10 mm", "1 cm", True),
    ("1 m", "100", False),
    ("1 in", "2.54 cm", True),
    ("1 L", "1000 cm^3", True),
    ("5 cm", "5 cm^2", False),
    ("5 cm\N{SUPERSCRIPT TWO}", "5 square centimetres", True),
    (r"5 \text{ cm}^{2}", "5 sq cm", True),
    ("1 m^2", "10000 cm^2", True),
    ("1 m^2", "100 cm^2", False),
    ("60 km/h", "60 km per hour", True),
    ("36 km/h", "10 m/s", True),
    ("60 km/h", "60 m/s", False),
    ("60 mph", "60 miles per hour", True),
    ("2 N m", "2 J", True),
    ("5 N", "5 J", False),
    ("3 mW", "3 MW", False),
    ("90 min", "1.5 h", True),
    (r"30^\circ", "30 degrees", True),
    (r"30^{\circ}", "30\N{DEGREE SIGN}", True),
    ("30 rad", "30\N{DEGREE SIGN}", False),
    (r"30^\circ\text{C}", "30 degrees Celsius", True),
    ("30\N{DEGREE SIGN}C", "30\N{DEGREE SIGN}F", False),
    ("0\N{DEGREE SIGN}C", "32\N{DEGREE SIGN}F", False),  # Not converted: different zero points.
    ("30\N{DEGREE SIGN}C", "30\N{DEGREE SIGN}", False),
    ("50%", "50 percent", True),
    (r"50\%", "1/2", True),
    ("50", "50%", False),
    ("0.5", "50%", True),
    ("5 million", "5000000", True),
    ("5 million", "5", False),
    ("$5", "5 dollars", True),
    (r"\$5", "5", True),
    ("$5", "5\N{EURO SIGN}", False),
    ("-$5", "-5", True),
    ("$5 million", "5,000,000 dollars", True),
    ("50 cents", "$0.5", True),
    ("5\u5398\u7c73", "5 cm", True),
    ("5\u5e73\u65b9\u7c73", "5 m^2", True),
    ("5 apples", "5.0 apples", True),
    ("5 apples", "5 oranges", False),
    ("5 apples", "5", False),
    ("5x", "5", False),
    ("5 x", "5x", True),
    ("5 or six", "5", False),
    ("5/m", "5", False),
    ("12 square units", "12", True),
]

COLLECTIONS = [
    ("( 1 ,2 )", "(1,2)", True),
    ("(2, 1)", "(1, 2)", False),
    ("(1, 2, 3)", "(1, 2)", False),
    ("(1,234)", "(1, 234)", True),
    ("(1,234)", "1234", False),
    ("(0.5, 2)", r"\left(\frac{1}{2}, 2\right)", True),
    (r"\left(1, 2\right]", "(1,2]", True),
    ("1, 2", "(1, 2)", True),
    ("1, 2", "[1, 2]", False),
    ("[1, 2]", "(1, 2)", False),
    ("[1, 2", "[1, 2]", False),
    ("1, 2", "[1, 2)", False),
    (r"\{1, 2\}", "{2, 1}", True),
    ("2, 1", "{1, 2}", True),
    ("{2, 1}", "1, 2", False),
    ("{1, 1, 2}", "{1, 2, 2}", False),
    ("{5}", "5", True),
    ("()", "(1, 2)", False),
    ("(1,)", "(1, 2)", False),
    ("P(1, 2)", "(1, 2)", True),
    ("P(1, 2)", "Q(1, 2)", False),
    ("(1, 2), (3, 4)", "(1,2);(3,4)", True),
    ("((1, 2), (3, 4))", "((1, 2), (3, 5))", False),
    ("(1 cm, 2 cm)", "(10 mm, 20 mm)", True),
    (r"(-\infty, 2)", "(-\N{INFINITY}, 2)", True),
    ("(x+1)(x-2)", "x+1", False),
]

PARTS = [
    ("3; 4", "3;4", True),
    ("3, 4", "3; 4", True),
    ("3 and 4", "3, 4", True),
    ("3, 4, and 5", "3,4,5", True),
    ("3\N{FULLWIDTH SEMICOLON}4", "3; 4", True),
    ("3; 5", "3; 4", False),
    ("4; 3", "3; 4", False),
    ("3; 4; 5", "3; 4", False),
    ("3", "3; 4", False),
    ("(1) 3 (2) 4", "(1) 3; (2) 4.", True),
    ("(1) 3 (2) 5", "(1) 3 (2) 4", False),
    ("(a) 3 (b) 4", "(1) 3 (2) 4", True),
    ("(a) 7 (b) 9", "(a) 3 (b) 4", False),
    ("(1) 3, 4 (2) 5", "(1) 3; 4 (2) 5", True),
    ("1,234; 5", "1234, 5", True),
    ("1,234 and 5,678", "1234; 5678", True),
    ("1,2,3", "1, 2, 3", True),
    ("x = 1, y = 2", "1, 2", True),
    ("red, blue", "red and blue", True),
    ("red, blue", "red, green", False),
]

EQUATIONS = [
    ("x=3.5", "3.5", True),
    ("3.5", "x = 3.5", True),
    ("x = 35", "3.5", False),
    ("y=3", "x=3", False),
    ("X=3", "x = 3", True),
    (r"x \approx 3.5", "3.5", True),
    (r"\angle ABC = 30^\circ", "30", True),
    ("x_1 = 3", "3", True),
    ("f(2) = 3", "3", True),
    (r"\theta = 30^\circ", "30 degrees", True),
    ("2x = 6", "6", False),
    ("-x = 3", "3", False),
    ("x^2 = 9", "9", False),
    ("sin x = 1", "1", False),
    ("sqrt(x) = 3", "3", False),
    ("x != 3", "3", False),
    ("x >= 3", "3", False),
    (r"x \geq 3", "x >= 3", True),
    ("x = 3 = 4", "3", False),
    ("y = 2x + 1", "y=2x+1", True),
    ("y = 2x + 1", "2x+1", True),
]

CHOICES = [
    ("A", "A", True),
    ("a", "A", True),
    ("A.", "A", True),
    ("(A)", "A", True),
    ("[A]", "A", True),
    ("A)", "A", True),
    ("A:", "A", True),
    ("option A", "A", True),
    ("Option (A)", "A", True),
    ("the answer is A", "A", True),
    ("The correct answer is: (A).", "A", True),
    ("Answer: A", "A", True),
    ("**A**", "A", True),
    (r"\boxed{A}", "A", True),
    (r"$\text{A}$", "A", True),
    ("B", "A", False),
    ("(B)", "(A) 5", False),
    ("Option A is correct.", "A", True),
    ("A is the right answer", "A", True),
    ("A is not correct", "A", False),
    ("not A", "A", False),
    ("A or B", "A", False),
    ("(A) or (B)", "A", False),
    ("A, B", "A", False),
    ("A. cat B. dog", "A", False),
    ("a cat", "A", False),
    ("(A) 5", "A", True),
    ("A. cat", "A", True),
    ("A: cat", "A", True),
    ("A", "(A) 5", True),
    ("(A) 6", "(A) 5", True),  # The letter decides.
    ("6", "(A) 5", False),
    ("5.0", "(A) 5", True),
    ("cat", "A. cat", True),
    ("Cat.", "A. cat", True),
    ("dog", "A. cat", False),
    ("B. cat", "A. cat", False),
    ("(3, 4)", "(A) (3, 4)", True),
    ("(a) 5", "(A) 5", True),
    ("A. 5", "5", True),
    ("J", "J", True),
    ("A, C", "AC", True),
    ("(A), (C)", "A and C", True),
    ("C, A", "A, C", False),
    ("A", "A, C", False),
    ("A, B, C", "A, C", False),
    ("(A) = 7", "(A) = 5", False),
    ("A'", "A", False),
    ("A: 9, B: 7", "A: 5, B: 6", False),
]

TEXTS = [
    ("Yes", "yes", True),
    ("Yes!", "yes", True),
    ('"yes"', "yes", True),
    ("**yes**", "yes", True),
    ("`yes`", "yes", True),
    (r"\text{yes}", "yes", True),
    ("yes", "no", False),
    ("the  red\ncube", "the red cube", True),
    ("red cube", "redcube", False),
    ("n!", "n", False),
    ("A'B", "AB", False),
    ("U.S.", "US", True),
    ("v3.5", "v35", False),
    ("x^2 + 1", "x^{2}+1", True),
    ("=", "=", True),
    ("<", "=", False),
    ("?", "!", False),
    ("2020-01-05", "2020", False),
    ("5:30 pm", "5:30 PM", True),
]


def rows(**tables: list[tuple[str, str, bool]]) -> list[object]:
    return [
        pytest.param(prediction, truth, right, id=f"{name}: {prediction} for {truth}")
        for name, table in tables.items()
        for prediction, truth, right in table
    ]


@pytest.mark.parametrize(
    ("prediction", "truth", "right"),
    rows(
        published=PUBLISHED_TABLE,
        number=NUMBERS,
        unit=UNITS,
        collection=COLLECTIONS,
        parts=PARTS,
        equation=EQUATIONS,
        choice=CHOICES,
        text=TEXTS,
    ),
)
def test_a_prediction_is_judged_as_a_teacher_would(
    prediction: str, truth: str, right: bool
) -> None:
    assert verify(prediction, truth) is (Verdict.RIGHT if right else Verdict.WRONG)


@pytest.mark.parametrize(
    "wrapped",
    [
        "$7$",
        "$$7$$",
        "$ 7 $",
        r"\(7\)",
        r"\[7\]",
        r"\boxed{7}",
        r"$\boxed{7}$",
        "**7**",
        "7.",
        " 7\n",
    ],
)
def test_wrappers_around_an_answer_are_ignored(wrapped: str) -> None:
    assert verify(wrapped, "7") is Verdict.RIGHT
    assert verify("7", wrapped) is Verdict.RIGHT
    assert verify(wrapped, "8") is Verdict.WRONG


@pytest.mark.parametrize(
    "prediction",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="space"),
        pytest.param("$$", id="empty formula"),
        pytest.param("7" * TOO_LONG, id="too long"),
        pytest.param("7" + " " * TOO_LONG + "x", id="too long with space"),
        pytest.param(r"\frac{", id="broken LaTeX"),
        pytest.param("(" * 500 + "7" + ")" * 500, id="a thousand brackets"),
        pytest.param("7e99999999999", id="exponent beyond memory"),
        pytest.param("\x00\ud800", id="no text at all"),
    ],
)
def test_a_prediction_that_says_nothing_is_wrong(prediction: str) -> None:
    assert verify(prediction, "7") is Verdict.WRONG


def test_the_longest_answer_is_still_compared() -> None:
    longest = "7" * (TOO_LONG - 1)
    assert verify(longest, longest) is Verdict.RIGHT
    assert verify(f" {longest} ", longest) is Verdict.RIGHT


@pytest.mark.parametrize(
    "truth",
    [
        pytest.param("", id="empty"),
        pytest.param(" \n", id="space"),
        pytest.param("$$", id="empty formula"),
        pytest.param(r"\text{}", id="empty LaTeX text"),
        pytest.param("__EMPTY__", id="placeholder of the reference data"),
        pytest.param("7" * TOO_LONG, id="longer than any answer may be"),
    ],
)
@pytest.mark.parametrize("prediction", ["7", "", "7" * TOO_LONG, "__EMPTY__"])
def test_an_unusable_truth_is_unverifiable_whatever_was_answered(
    truth: str, prediction: str
) -> None:
    assert verify(prediction, truth) is Verdict.UNVERIFIABLE


@pytest.mark.parametrize(
    ("prediction", "truths", "verdict"),
    [
        pytest.param("7", ["7"], Verdict.RIGHT, id="the only truth"),
        pytest.param("7", ["8", "7.0"], Verdict.RIGHT, id="the second truth"),
        pytest.param("7", ["8", "9"], Verdict.WRONG, id="no truth"),
        pytest.param("7", ["", "7"], Verdict.RIGHT, id="unusable truth beside a right one"),
        pytest.param(
            "7", ["8", "__EMPTY__"], Verdict.WRONG, id="unusable truth beside a wrong one"
        ),
        pytest.param("7", ["", "__EMPTY__"], Verdict.UNVERIFIABLE, id="unusable truths only"),
        pytest.param("7", [], Verdict.UNVERIFIABLE, id="no truths"),
        pytest.param("", ["7"], Verdict.WRONG, id="empty prediction"),
    ],
)
def test_any_of_several_truths_is_enough(
    prediction: str, truths: list[str], verdict: Verdict
) -> None:
    assert verify_any(prediction, truths) is verdict
