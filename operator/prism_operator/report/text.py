"""Figures as a reader wants them: the wording that terminal, HTML and plots share."""

import math

from prism_api.names import StageKind

STAGE_LABELS: dict[StageKind, str] = {"sft": "SFT", "align": "Alignment", "rlvr": "RLVR"}
"""How a stage is called in front of people."""

ABSENT = "-"


def percent(rate: float | None) -> str:
    """A rate between 0 and 1 as a percentage with one decimal; `-` where there is none."""
    return ABSENT if rate is None else f"{100 * rate:.1f} %"


def percent_range(interval: tuple[float, float] | None, joiner: str = " - ") -> str:
    """An interval of rates in percent, the sign only once; `-` where there is none."""
    if interval is None:
        return ABSENT
    low, high = interval
    return f"{100 * low:.1f}{joiner}{100 * high:.1f} %"


def points(before: float | None, after: float | None) -> str:
    """The signed difference of two rates in percentage points; `-` unless both are known."""
    if before is None or after is None:
        return ABSENT
    return f"{100 * (after - before):+.1f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as `h:mm:ss`, without hours as `m:ss`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def byte_size(count: float) -> str:
    """A number of bytes in the largest binary unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("GiB is always taken")


def number(value: float) -> str:
    """A measured value in at most nine characters: three decimals, or two and an exponent."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-2 <= abs(value) < 1e3:
        return f"{value:.3f}"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.1e}"
