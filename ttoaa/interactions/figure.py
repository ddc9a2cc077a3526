"""Draw a dependence matrix as in the paper's Figure 4, with a verdict in every cell.

Verdicts are symbols, so the figure reads without colour; colours show the effect as a share of the
column's own effect, and a column without one has none.
"""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ttoaa.interactions.matrix import EQUIVALENT, INTERACTS, UNDECIDED, Cell, Matrix
from ttoaa.reporting.svg import BLUE, GREY, LINE
from ttoaa.runs import RUN

SYMBOLS = {INTERACTS: "●", EQUIVALENT: "≈", UNDECIDED: "?"}
LEGEND = (
    "● interacts; ≈ equivalent within the margin; ? not enough power\n"
    "hatched: not testable by continual training"
)
_COLOURS = "PuOr_r"


def layout(matrix: Matrix) -> list[tuple[str, list[tuple[Cell | None, Cell | None]]]]:
    """Return (title, cells) of every row: each cell with the one that has its verdict.

    The row of all experiments shows their effect and the verdict of its contrast with the
    experiment alone. The diagonal has no verdict.
    """
    rows = []
    for run in [*(f"alone/{name}" for name in matrix.experiments), RUN]:
        cells = []
        for column in matrix.experiments:
            shown = matrix.find(run, column)
            tested = matrix.find(RUN, column, f"alone/{column}") if run == RUN else shown
            cells.append((shown, tested if tested and tested.verdict else None))
        rows.append(("all" if run == RUN else run.partition("/")[2], cells))
    return rows


def paint(matrix: Matrix, axes: Axes, untestable: Sequence[str] = ()) -> None:
    """Draw the matrix; experiments in `untestable` get a hatched row and column."""
    columns = [*matrix.experiments, *untestable]
    rows = [*layout(matrix)[:-1], *((name, []) for name in untestable), layout(matrix)[-1]]
    colours = matplotlib.colormaps[_COLOURS]
    for y, (_, cells) in enumerate(rows):
        for x in range(len(columns)):
            if x >= len(cells):
                axes.add_patch(Rectangle((x, y), 1, 1, fill=False, hatch="///", lw=0.5, ec=LINE))
                continue
            shown, tested = cells[x]
            assert shown is not None
            share = _share(matrix, shown)
            rgba = colours(0.5 + 0.5 * max(-1.0, min(1.0, share)) if math.isfinite(share) else 0.5)
            bold = tested is not None and tested.verdict == INTERACTS
            axes.add_patch(Rectangle((x, y), 1, 1, fc=rgba, ec="#111111", lw=2.0 if bold else 0.4))
            symbol = SYMBOLS[tested.verdict] if tested and tested.verdict else ""
            dark = sum(rgba[:3]) < 1.5
            axes.text(x + 0.5, y + 0.5, f"{format_effect(shown.estimate)}\n{symbol}".strip(),
                      ha="center", va="center", fontsize=8, weight="bold" if bold else "normal",
                      color="#ffffff" if dark else "#111111")  # fmt: skip
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), aspect="equal")
    axes.set_xticks([x + 0.5 for x in range(len(columns))], columns, rotation=40, ha="right")
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [title for title, _ in rows])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.set_ylabel("trained on")
    axes.set_title(
        f"Effect on the outcome of …, {len(matrix.seeds)} seeds, step {matrix.checkpoint}"
    )
    axes.set_xlabel(LEGEND, fontsize=8)


def paint_pooled(matrix: Matrix, axes: Axes) -> None:
    """Draw what all other experiments do to the effect of each, as a share of the effect alone.

    Intervals are at 90%, as for equivalence within the margin, which is shaded. Experiments without
    an effect alone have no share and are left out.
    """
    cells = [matrix.find(RUN, name, f"alone/{name}") for name in matrix.experiments]
    known = [(c, c.share) for c in cells if c and c.share is not None and math.isfinite(c.share)]
    axes.axvspan(-100 * matrix.margin, 100 * matrix.margin, color=GREY, alpha=0.18, lw=0)
    axes.axvline(0, color=GREY, lw=0.9)
    for place, (cell, share) in enumerate(known):
        axes.plot(100 * share, place, "o", color=BLUE)
        if cell.share_low is not None and cell.share_high is not None:
            axes.hlines(place, 100 * cell.share_low, 100 * cell.share_high, color=BLUE)
    axes.set_yticks(range(len(known)), [cell.column for cell, _ in known])
    axes.set_ylim(len(known) - 0.4, -0.6)
    axes.set_xlabel("effect with all others, less the effect alone\n(% of the effect alone)")
    axes.set_title(f"from step {matrix.checkpoint}")


def paint_detectable(matrix: Matrix, axes: Axes) -> None:
    """Draw the smallest effect of one experiment on another one that would have been found.

    Columns as in `paint_pooled`, each with a point for every row of the matrix.
    """
    shown = []
    for column in matrix.experiments:
        own = matrix.find(f"alone/{column}", column)
        cells = [matrix.find(f"alone/{row}", column) for row in matrix.experiments if row != column]
        known = [c.detectable for c in cells if c and c.detectable and math.isfinite(c.share or 0)]
        if own and known and own.estimate > 0:
            shown.append((column, [100 * value / own.estimate for value in known]))
    shown.sort(key=lambda each: max(each[1]))
    axes.axvline(100 * matrix.margin, color=GREY, ls="--", label="margin")
    for place, (_, values) in enumerate(shown):
        axes.plot(values, [place] * len(values), "o", ms=4, alpha=0.5, color=BLUE)
    axes.set_yticks(range(len(shown)), [column for column, _ in shown])
    axes.set_xlim(left=0)
    axes.set_xlabel("detectable effect of another experiment\n(% of the effect alone)")
    axes.set_title(f"from step {matrix.checkpoint}")
    axes.legend()


def _share(matrix: Matrix, cell: Cell) -> float:
    """Return the effect as a share of the column's own; nan without an own effect."""
    own = matrix.find(f"alone/{cell.column}", cell.column)
    contrast = matrix.find(RUN, cell.column, f"alone/{cell.column}")
    if own is None or contrast is None or contrast.share is None or math.isnan(contrast.share):
        return math.nan
    return cell.estimate / own.estimate


def format_effect(value: float) -> str:
    if abs(value) < 1e-12:  # a mean of differences that cancel, but for the rounding of floats
        return "0"
    return f"{value:+.2g}" if abs(value) < 100 else f"{value:+.0f}"
