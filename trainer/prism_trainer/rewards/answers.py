"""What an answer can be once it is read: a quantity, a collection, a named value or plain text."""

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
    """An exact number, with or without a unit; percent and millions are part of the number."""

    value: Fraction
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """Several answers: a tuple, an interval, a set, or a list without brackets."""

    brackets: str
    """Opening and closing bracket; empty for a list without."""
    items: tuple["Answer", ...]


@dataclass(frozen=True, slots=True)
class Named:
    """`x = 3` or `P(1, 2)`."""

    name: str
    value: "Answer"


@dataclass(frozen=True, slots=True)
class Text:
    """Anything else, in the normal form of `text_key`."""

    key: str


Answer: TypeAlias = Quantity | Collection | Named | Text
