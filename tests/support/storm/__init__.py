"""Runs in a storm of faults, by waves; what fell on them, and what is wrong with them."""

from storm.table import Tally, table
from storm.waves import Storm, Weather

__all__ = ["Storm", "Tally", "Weather", "table"]
