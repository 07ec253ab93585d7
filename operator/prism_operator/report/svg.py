"""Matplotlib figures as inline SVG that takes its colours and its font from the page.

No pyplot: figures are plain values here, without a global state or a window.
"""

import hashlib
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib takes no CSS variables, so colours nobody else uses stand for them until the end.
INK, MUTED, GRID, BAND = "#010203", "#010204", "#010205", "#010206"
SERIES = ("#010207", "#010208", "#010209")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BAND: "--band",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)},
}

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's font
    "svg.hashsalt": "prism",  # the same figures give the same bytes
    "text.parse_math": False,  # a `$` in a metric's name is no formula
    "font.size": 8.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.02,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}


def draw(size: tuple[float, float], description: str, paint: Callable[[Axes], None]) -> Markup:
    """What `paint` draws into axes of that size (inches), with a text for screen readers."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        paint(figure.add_axes(_room(size)))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), description)


def _room(size: tuple[float, float]) -> tuple[float, float, float, float]:
    # Fixed margins in inches: panels line up, and drawing takes half the time of a fitted layout.
    width, height = size
    left, right, bottom, top = 0.46, 0.08, 0.36, 0.18
    return left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height


def _inline(document: str, description: str) -> Markup:
    body = document[document.index("<svg") :]
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # Several figures share a page, and ids must be unique in it.
    prefix = f"f{hashlib.sha256((document + description).encode()).hexdigest()[:12]}-"
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", body)
    body = re.sub(r' (width|height)="[\d.]+pt"', "", body, count=2)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    label = escape(description)
    # Safe: matplotlib escapes all text that it writes, and the description is escaped here.
    return Markup(body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
