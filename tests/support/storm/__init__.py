"""Runs in a storm of faults, by waves; what is wrong with them afterwards, and what fell on them."""

from storm.table import Tally, table
from storm.waves import Storm, Weather

__all__ = ["Storm", "Tally", "Weather", "table"]
