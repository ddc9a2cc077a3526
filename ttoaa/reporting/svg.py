"""Draw figures as SVG that is part of the page: its colours follow the theme, its text is text.

Figures are as wide as a phone, so that their text is readable there. Legends are moved below the
figure, where they cover no data, and markers show their values under the mouse, without scripts.
"""

import dataclasses
import html
import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from ttoaa.reporting.number_formats import format_number

WIDTH, HEIGHT = 4.6, 3.1
"""Inches of 72 units: as wide as a phone's screen in CSS pixels."""
INK, LINE, _GRID = "#20262e", "#9aa3ad", "#e6e9ed"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#3f7fd4", "#e07b39", "#2f9e7a", "#b659b0", "#8a929e"
_VARIABLES = {INK: "var(--ink)", LINE: "var(--axis)", _GRID: "var(--line)"}
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_INKS = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
STYLE: dict[str, Any] = {
    **dict.fromkeys(_INKS, INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), LINE),
    "grid.color": _GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.prop_cycle": cycler(
        color=[BLUE, ORANGE, GREEN, PURPLE, "#c9a227", "#5aa9c9", "#d1495b", GREY]
    ),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}
_MOST_POINTS = 60
"""Points of a line with markers, beyond which they do not show their values."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure as SVG; `alt` states its message for those who do not see it."""

    svg: Markup
    alt: str
    caption: str = ""


def draw(
    paint: Callable[[Axes], None],
    name: str,
    alt: str,
    caption: str = "",
    width: float = WIDTH,
    height: float = HEIGHT,
) -> Picture:
    """Draw a figure with `paint(axes)`; `name` is unique on the page, sizes are in inches."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The box below contains what the layout has no room for.
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        figure = Figure(figsize=(width, height))
        canvas = FigureCanvasAgg(figure)
        paint(figure.add_subplot())
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # legends below must not move the axes
        _move_legends(figure, canvas)
        # Tight, because layout engines do not see inset axes of an experiment.
        box = figure.get_tightbbox(canvas.get_renderer()).padded(0.06)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches=box)
        points = "".join(_points(figure, box))
    return Picture(Markup(_inline(file.getvalue(), points, alt)), alt, caption)


def _all_axes(figure: Figure) -> list[Axes]:
    """Return all axes, and the inset ones inside them."""
    found = list(figure.axes)
    for axes in found:
        found += [each for each in axes.child_axes if isinstance(each, Axes)]
    return found


def _move_legends(figure: Figure, canvas: FigureCanvasAgg) -> None:
    """Put each legend that lies on its axes below the whole figure, in as many columns as fit."""
    renderer = canvas.get_renderer()
    for axes in _all_axes(figure):
        legend = axes.get_legend()
        if legend is None:
            continue
        box = legend.get_window_extent(renderer)
        if not _overlap(box, axes.get_window_extent(renderer)):
            continue
        handles = [handle for handle in legend.legend_handles if handle is not None]
        labels = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        below = figure.get_tightbbox(renderer)
        at = (below.x0 / figure.get_figwidth(), below.y0 / figure.get_figheight())
        for columns in range(min(4, len(handles)), 0, -1):
            moved = figure.legend(
                handles, labels, loc="upper left", bbox_to_anchor=at, ncols=columns,
                columnspacing=1.2, handlelength=1.6, borderaxespad=0.2,
            )  # fmt: skip
            wide = moved.get_window_extent(renderer).width / figure.dpi
            if wide <= max(below.width, 0.95 * figure.get_figwidth()) or columns == 1:
                break
            moved.remove()


def _overlap(one: Bbox, other: Bbox) -> bool:
    """Return whether two boxes share more than an edge."""
    shared = Bbox.intersection(one, other)
    return shared is not None and shared.width > 2 and shared.height > 2


def _points(figure: Figure, box: Bbox) -> Iterator[str]:
    """Yield an invisible circle with its values for each marker of the figure's lines."""
    left, top = 72 * box.x0, 72 * box.y1
    for axes in _all_axes(figure):
        names = _tick_names(axes)
        for line in axes.get_lines():
            marked = line.get_marker() not in ("None", None, "", " ")
            if not marked or len(_data(line)) > _MOST_POINTS or not line.get_visible():
                continue
            for (x, y), at in zip(_data(line), _places(line, figure.dpi), strict=True):
                if not np.isfinite([x, y, *at]).all():
                    continue
                where = names.get(round(float(x)), format_number(float(x)))
                label = str(line.get_label())
                label = "" if label.startswith("_") else f"{label}: "
                title = html.escape(f"{label}{format_number(float(y))} at {where}")
                yield (
                    f'<circle cx="{at[0] - left:.1f}" cy="{top - at[1]:.1f}" r="7">'
                    f"<title>{title}</title></circle>"
                )


def _data(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xydata(), float)


def _places(line: Line2D, dpi: float) -> np.ndarray:
    """Return the points of a line in units of the SVG, from the lower left corner."""
    return np.asarray(line.get_transform().transform(_data(line)), float) * 72 / dpi


def _tick_names(axes: Axes) -> dict[int, str]:
    """Return the labels of an axis of categories, by place; of other axes none."""
    labels = [text.get_text() for text in axes.get_xticklabels()]
    places = np.asarray(axes.get_xticks())
    if list(places) != list(range(len(labels))) or labels == [f"{p:g}" for p in places]:
        return {}
    return dict(enumerate(labels))


def _inline(svg: str, points: str, alt: str) -> str:
    """Return an SVG file as an element of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)  # would be the page's
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view is not None
    start = svg.index(">", svg.index("<svg")) + 1
    body = svg[start : svg.rindex("</svg>")].replace("'DejaVu Sans'", _FONT.replace("'", "&apos;"))
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return (
        f'<svg class="plot" viewBox="{view[1]}" role="img" aria-label="{html.escape(alt)}">'
        f'{body}<g class="points">{points}</g></svg>'
    )
