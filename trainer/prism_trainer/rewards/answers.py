"""What an answer can be once it is read: quantity, collection, named value, relation or text."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

Dimension: TypeAlias = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measurement as a multiple of its base units."""

    factor: Fraction
    """One of this unit in base units."""
    dimension: Dimension
    """Base units and their powers, sorted by name; units compare only within one dimension."""
    omissible: bool = True
    """Whether an answer may leave the unit out; not so for a noun that is no unit (`5 apples`)."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, with or without a unit; percent and millions are part of the number."""

    value: Fraction
    """Exact; the whole number if there is no formula, else a factor of it."""
    unit: Unit | None = None
    formula: str = ""
    """What only algebra can compare (`2 3 root`), in the notation of `formulas`."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Several answers: a tuple, an interval, a set, or a list without brackets."""

    brackets: str
    """Opening and closing bracket; empty for a list without; or one of the kinds below."""
    items: tuple["Answer", ...]


PLUS_MINUS, UNION, MATRIX, ROW = "\N{PLUS-MINUS SIGN}", "\N{UNION}", "matrix", "row"


@dataclass(frozen=True, slots=True)
class Relation:
    """An equation or inequality: how left minus right compares to zero."""

    sign: str
    """One of `=`, `!=`, `>`, `>=`."""
    difference: str
    """In the notation of `formulas`."""


@dataclass(frozen=True, slots=True)
class Named:
    """`x = 3` or `P(1, 2)`."""

    name: str
    value: "Answer"
    relation: Relation | None = None
    """The same as a relation, unless it states a number: `2x = 6` does not state `x = 3`."""


@dataclass(frozen=True, slots=True)
class Text:
    """Anything else, in the normal form of `text_key`."""

    key: str


Answer: TypeAlias = Quantity | Collection | Named | Relation | Text


def formulas_of(answer: Answer) -> list[str]:
    """Every formula in an answer."""
    match answer:
        case Quantity(formula=formula):
            return [formula] if formula else []
        case Relation(difference=difference):
            return [difference]
        case Named(value=value, relation=relation):
            return formulas_of(value) + (formulas_of(relation) if relation else [])
        case Collection(items=items):
            return [formula for item in items for formula in formulas_of(item)]
    return []
