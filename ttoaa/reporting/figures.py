"""Figures as self-contained SVG, drawn twice: once for light pages, once for dark ones."""

import base64
import dataclasses
import io
from collections.abc import Callable
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RUN, CONTROL = "#3f7fd4", "#8a929e"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.prop_cycle": cycler(
        color=["#3f7fd4", "#e07b39", "#2f9e7a", "#b659b0", "#c9a227", "#5aa9c9", "#d1495b"]
    ),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "ttoaa",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def _theme(ink: str, line: str, grid: str, paper: str) -> dict[str, Any]:
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    lines = ("axes.edgecolor", "xtick.color", "ytick.color")
    return (
        _STYLE
        | dict.fromkeys((*inks, "ytick.labelcolor"), ink)
        | dict.fromkeys(lines, line)
        | {"grid.color": grid, "axes.facecolor": paper, "figure.facecolor": paper}
    )


_LIGHT = _theme("#20262e", "#9aa3ad", "#e6e9ed", "#ffffff")
_DARK = _theme("#e4e8ed", "#69737f", "#2c343d", "#171c22")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure as two data URIs, and the words for who cannot see it."""

    light: str
    dark: str
    alt: str


def draw(
    paint: Callable[[Axes], None], alt: str, width: float = 5.8, height: float = 3.7
) -> Picture:
    """Lets `paint` draw on fresh axes (inches wide and high) in either theme."""
    light, dark = (_data_uri(paint, theme, width, height) for theme in (_LIGHT, _DARK))
    return Picture(light, dark, alt)


def _data_uri(
    paint: Callable[[Axes], None], theme: dict[str, Any], width: float, height: float
) -> str:
    file = io.StringIO()
    with matplotlib.rc_context(theme):
        figure = Figure(figsize=(width, height))
        paint(figure.add_subplot())
        # Tight, because layouts do not see axes that an experiment sets into its own.
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight"
        )
    # Text stays text, in the reader's own font: crisper and a third of the size of outlines.
    svg = file.getvalue().replace("'DejaVu Sans'", _FONT.replace("'", "&apos;"))
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
