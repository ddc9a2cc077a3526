"""Write dependence matrices: JSON with every number, tables in Markdown, and a figure each."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import pandas as pd
from matplotlib.figure import Figure

from ttoaa.interactions.comparison import FORECASTS, ForecastQuality, compare_forecasts
from ttoaa.interactions.figure import LEGEND, SYMBOLS, format_effect, layout, paint
from ttoaa.interactions.matrix import (
    EQUIVALENT,
    INTERACTS,
    MARGIN,
    UNDECIDED,
    VERDICTS,
    Cell,
    Matrix,
    measure,
)
from ttoaa.interactions.published import FIGURE_4
from ttoaa.json_io import read_json
from ttoaa.runs import CONTROL, RUN
from ttoaa.workdir import write_json, write_text

FILE = "dependence.json"
NOT_TESTABLE = "not testable by continual training"


class _Matrix(TypedDict):
    checkpoint: int
    seeds: list[int]
    experiments: list[str]
    cells: list[dict[str, Any]]


class _Dependence(TypedDict):
    """The parts of dependence.json that `read_matrices` reads."""

    margin: float
    untestable: dict[str, str]
    matrices: list[_Matrix]


def write(
    folder: pathlib.Path,
    effects: pd.DataFrame,
    margin: float = MARGIN,
    untestable: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
    forecast: pd.DataFrame | None = None,
) -> list[Matrix]:
    """Write dependence.json, dependence.md and dependence-STEP.png, and return the matrices.

    `effects` has the columns of `effects.COLUMNS`; `untestable` gives the reason by experiment,
    `classes` the class of each experiment, by which published results are found. A `forecast` (see
    `interactions.forecast`) of these checkpoints is compared with the matrices. Errors as in
    `matrix.measure`.
    """
    matrices, untestable, classes = measure(effects, margin), untestable or {}, classes or {}
    forecasts = {
        matrix.checkpoint: compare_forecasts(forecast, matrix)
        for matrix in matrices
        if forecast is not None and (forecast["checkpoint"] == matrix.checkpoint).any()
    }
    value = {
        "margin": margin,
        "untestable": {name: f"{NOT_TESTABLE}: {why}" for name, why in untestable.items()},
        "matrices": [{**matrix_json(each), "smallest_p": each.smallest_p} for each in matrices],
        "published": [row for matrix in matrices for row in compare_published(matrix, classes)],
        "forecasts": [
            {"checkpoint": checkpoint, "forecast": kind}
            | ({"missing": each} if isinstance(each, str) else dataclasses.asdict(each))
            for checkpoint, kinds in forecasts.items()
            for kind, each in kinds.items()
        ],
    }
    write_json(folder / FILE, value)
    text = to_markdown(matrices, untestable, classes)
    if forecasts:
        text += "\n".join(["", *_forecast_table(forecasts)]) + "\n"
    write_text(folder / "dependence.md", text)
    for matrix in matrices:
        size = 2.5 + 0.75 * (len(matrix.experiments) + len(untestable))
        figure = Figure(figsize=(size, size))
        paint(matrix, figure.add_subplot(), tuple(untestable))
        path = folder / f"dependence-{matrix.checkpoint}.png"
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Software": None})
    return matrices


def read_matrices(folder: pathlib.Path) -> tuple[list[Matrix], tuple[str, ...]]:
    """Return the matrices of dependence.json, and the names of untestable experiments."""
    value = read_json(folder / FILE, _Dependence, "run ttoaa dependence again")
    required = [f.name for f in dataclasses.fields(Cell) if f.default is dataclasses.MISSING]
    matrices = [
        Matrix(
            each["checkpoint"],
            tuple(each["seeds"]),
            tuple(each["experiments"]),
            value["margin"],
            tuple(
                Cell(**cell | {name: math.nan for name in required if cell[name] is None})
                for cell in each["cells"]
            ),
        )
        for each in value["matrices"]
    ]
    return matrices, tuple(value["untestable"])


def matrix_json(matrix: Matrix) -> dict[str, Any]:
    """Return a matrix as JSON values."""
    return {
        "checkpoint": matrix.checkpoint,
        "seeds": list(matrix.seeds),
        "experiments": list(matrix.experiments),
        **summarize(matrix),
        "cells": [
            {
                key: None if isinstance(number, float) and not math.isfinite(number) else number
                for key, number in dataclasses.asdict(cell).items()
            }
            for cell in matrix.cells
        ],
    }


def summarize(matrix: Matrix) -> dict[str, Any]:
    """Return the number of tested cells by verdict, and the share that has power."""
    tested = matrix.tested
    return {
        "verdicts": {v: sum(cell.verdict == v for cell in tested) for v in VERDICTS},
        "powered": sum(bool(cell.powered) for cell in tested) / len(tested),
    }


def compare_published(matrix: Matrix, classes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the paper's own effects, alone and together, next to those of the same experiments."""
    rows = []
    for name in matrix.experiments:
        paper = FIGURE_4.get(classes.get(name, ""))
        contrast = matrix.find(RUN, name, f"alone/{name}")
        alone, together = (matrix.find(run, name) for run in (f"alone/{name}", RUN))
        if paper and alone and together and contrast:
            rows.append(
                {
                    "checkpoint": matrix.checkpoint,
                    "experiment": name,
                    "paper_outcome": paper.outcome,
                    "paper_alone": paper.alone,
                    "paper_together": paper.together,
                    "alone": alone.estimate,
                    "together": together.estimate,
                    "p": contrast.p,
                    "verdict": contrast.verdict,
                }
            )
    return rows


def to_markdown(
    matrices: Sequence[Matrix], untestable: Mapping[str, str], classes: Mapping[str, str]
) -> str:
    """Return the tables of all matrices."""
    lines = ["# Dependence between experiments", ""]
    for matrix in matrices:
        lines += [f"## Step {matrix.checkpoint}", "", *_describe(matrix), *effect_table(matrix), ""]
        lines += [*cell_table(matrix), ""]
        if rows := compare_published(matrix, classes):
            lines += [*_published_table(rows), ""]
    lines += [f"- `{name}`: {NOT_TESTABLE}. {why}" for name, why in untestable.items()]
    return "\n".join(lines).rstrip() + "\n"


def _describe(matrix: Matrix) -> Iterator[str]:
    yield (
        f"{count_verdicts(matrix)} With {len(matrix.seeds)} paired seeds no p-value is below "
        f"{matrix.smallest_p:.2g}."
    )
    yield ""


def count_verdicts(matrix: Matrix) -> str:
    """Return a sentence on the verdicts, and one on power."""
    counts = summarize(matrix)
    verdicts = "; ".join(f"{verdict}: {n}" for verdict, n in counts["verdicts"].items())
    return (
        f"{len(matrix.tested)} tested cells ({verdicts}). {counts['powered']:.0%} of them could "
        f"detect an effect of the margin ({matrix.margin:.0%} of the column's own effect)."
    )


def effect_table(matrix: Matrix) -> Iterator[str]:
    """Yield the lines of a table of effects with the symbols of their verdicts."""
    yield f"{LEGEND.splitlines()[0]}. Rows are trained on, columns are measured."
    yield ""
    yield f"| | {' | '.join(matrix.experiments)} |"
    yield f"|---|{'---|' * len(matrix.experiments)}"
    for title, cells in layout(matrix):
        texts = [
            f"{format_effect(shown.estimate) if shown else '–'} "
            f"{SYMBOLS[tested.verdict] if tested and tested.verdict else ''}".strip()
            for shown, tested in cells
        ]
        yield f"| {title} | {' | '.join(texts)} |"


def cell_table(matrix: Matrix) -> Iterator[str]:
    """Yield the lines of a table of all tested cells; those that interact come first."""
    yield "| effect | mean | over seeds | and items | of own | detectable | p | Holm | verdict |"
    yield "|---|---|---|---|---|---|---|---|---|"
    order = {INTERACTS: 0, UNDECIDED: 1, EQUIVALENT: 2}
    for cell in sorted(matrix.tested, key=lambda cell: order[cell.verdict or UNDECIDED]):
        yield f"| {_name(cell)} | {' | '.join(_numbers(cell))} |"


def _numbers(cell: Cell) -> Iterator[str]:
    yield format_effect(cell.estimate)
    for low, high in ((cell.ci_low, cell.ci_high), (cell.items_low, cell.items_high)):
        known = math.isfinite(low) and math.isfinite(high)
        yield f"[{format_effect(low)}, {format_effect(high)}]" if known else "–"
    yield f"{cell.share:.0%}" if cell.share is not None and math.isfinite(cell.share) else "–"
    yield f"{cell.detectable:.2g}"
    yield f"{cell.p:.3g}"
    yield f"{cell.p_holm:.3g}"
    more = ""
    if cell.verdict == UNDECIDED:
        more = f": {cell.seeds} seeds would decide" if cell.seeds else ": raise the own effect"
    elif cell.verdict == INTERACTS and (cell.p_equivalence or 1) < 0.05:
        more = ", within the margin"
    yield f"{cell.verdict}{more}"


def _name(cell: Cell) -> str:
    return f"{cell.row}{'' if cell.minus == CONTROL else f' − {cell.minus}'} → {cell.column}"


def _published_table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "The paper's matrix (one burst, no test) next to this one; units differ."
    yield ""
    yield "| experiment | paper: outcome | alone | all | here: alone | all | p | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        effects = [format_effect(row[key]) for key in ("alone", "together")]
        yield (
            f"| {row['experiment']} | {row['paper_outcome']} | {row['paper_alone']:g} | "
            f"{row['paper_together']:g} | {' | '.join(effects)} | {row['p']:.3g} | "
            f"{row['verdict']} |"
        )


def _forecast_table(forecasts: Mapping[int, Mapping[str, ForecastQuality | str]]) -> Iterator[str]:
    yield "## Forecasts made before training"
    yield ""
    yield (
        "Spearman's correlation of off-diagonal effects, as shares of the column's own, with a 95% "
        "interval over experiments. Saved are the rows that would not have been trained if rows "
        "had been taken in the order of the forecast until every row with an interaction was "
        "found; a random order saves the number in brackets."
    )
    yield ""
    yield "| step | forecast | rank correlation | p | cells | rows saved |"
    yield "|---|---|---|---|---|---|"
    for checkpoint, kinds in forecasts.items():
        for kind in FORECASTS:
            each = kinds[kind]
            if isinstance(each, str):
                yield f"| {checkpoint} | {kind} | – {each} | – | – | – |"
                continue
            r = each.correlation
            yield (
                f"| {checkpoint} | {kind} | {r.rho:+.2f} [{r.low:+.2f}, {r.high:+.2f}] | {r.p:.2g} "
                f"| {r.n} | {each.saved_rows} of {each.rows} ({each.saved_by_chance:.1f}) |"
            )
