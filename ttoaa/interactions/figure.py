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
from ttoaa.runs import RUN

SYMBOLS = {INTERACTS: "●", EQUIVALENT: "≈", UNDECIDED: "?"}
LEGEND = (
    "● interacts    ≈ equivalent within the margin    ? not enough power\n"
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
                axes.add_patch(
                    Rectangle((x, y), 1, 1, fill=False, hatch="///", lw=0.5, ec="#9aa3ad")
                )
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


def _share(matrix: Matrix, cell: Cell) -> float:
    """Return the effect as a share of the column's own; nan without an own effect."""
    own = matrix.find(f"alone/{cell.column}", cell.column)
    contrast = matrix.find(RUN, cell.column, f"alone/{cell.column}")
    if own is None or contrast is None or contrast.share is None or math.isnan(contrast.share):
        return math.nan
    return cell.estimate / own.estimate


def format_effect(value: float) -> str:
    return f"{value:+.2g}" if abs(value) < 100 else f"{value:+.0f}"
