"""How figures look, and how they get into the page and into files."""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from typing import Any

from maxent_ts.errors import MissingExtraError

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise MissingExtraError("matplotlib", "report") from error

__all__ = ["COLOURS", "INK", "PAPER", "Axes", "Drawing", "new_figure", "save", "styled", "svg"]

INK = "#010203"
"""Drawn in this colour, replaced by the page's own text colour."""

PAPER = "#fdfcfb"
"""Likewise, by the page's background."""

COLOURS = ("#0b62c4", "#d1600a", "#1a8a5c", "#b83280", "#8a6d00", "#6b4fc8", "#12879b", "#c23b3b", "#5b6770")
"""Told apart on white and on black."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "maxent-ts",
    "pdf.fonttype": 42,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib; the page shows its own font
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.7,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Drawing:
    """A figure with the words that go with it."""

    name: str
    """For files: letters, digits and hyphens."""
    title: str
    figure: Figure
    note: str = ""
    """How to read it."""


styled = mpl.rc_context(STYLE)
"""Decorates a function that draws."""


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of so many inches and its axes, row by row. To be called in a function that is `styled`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [one for row in axes for one in row]


@styled
def save(figure: Figure, form: str) -> bytes:
    """Return a figure as a file: "svg" or "pdf". The same figure gives the same bytes."""
    file = io.BytesIO()
    dates: Any = {"Date": None, "Creator": None} if form == "svg" else {"CreationDate": None, "Creator": None, "Producer": None}
    figure.savefig(file, format=form, transparent=True, metadata=dates)
    return file.getvalue()


def svg(drawing: Drawing) -> str:
    """Return the figure as an element, with ids of its own and the page's colours for ink and paper."""
    text = save(drawing.figure, "svg").decode()
    text = text[text.index("<svg") :].strip()
    prefix = f"figure-{hashlib.sha256(text.encode()).hexdigest()[:8]}-"  # figures that share ids are equal, so no harm is done
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper)").replace("'DejaVu Sans'", "system-ui, sans-serif")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", text, count=1)
    width = drawing.figure.get_size_inches()[0] * 96
    label = drawing.title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" style="width:100%;max-width:{width:.0f}px" ', 1)
