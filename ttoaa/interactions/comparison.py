"""Compare dependence matrices: a forecast with a measurement, bursts with full training."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ttoaa.interactions.matrix import INTERACTS, VERDICTS, Cell, Matrix
from ttoaa.runs import CONTROL
from ttoaa.statistics.matrix_correlation import FEWEST, RankCorrelation, rank_correlation

FORECASTS = ("containment", "gradient", "preconditioned")
"""The kinds of forecast, as in `interactions.forecast`; the first has no sign."""


@dataclasses.dataclass(frozen=True)
class ForecastQuality:
    correlation: RankCorrelation
    rows: int
    saved_rows: int
    """Rows that a forecast which knew where to stop would not have run, missing no interaction.

    Rows run in the order of their largest forecast, and the last one needed is known only in
    hindsight: an upper bound of the saving.
    """
    saved_by_chance: float
    """What a random order saves on average. Without an interaction, any order saves all rows."""


def forecast_shares(forecast: pd.DataFrame, checkpoint: int, kind: str) -> pd.DataFrame:
    """Return the mean forecast of one kind over seeds, [row experiments, column experiments].

    `forecast` has the columns of `forecast.COLUMNS`. First-order effects become shares of the
    column's own one, nan where that is not positive.
    """
    cells = forecast[forecast["checkpoint"] == checkpoint]
    means = cells.groupby(["row", "column"])[kind].mean().unstack()
    if kind == FORECASTS[0]:
        return means
    own = pd.Series({name: means.loc[name, name] for name in means.columns})
    return means / own.where(own > 0)


def compare_forecasts(forecast: pd.DataFrame, matrix: Matrix) -> dict[str, ForecastQuality | str]:
    """Compare each kind of forecast with a matrix: its quality, or why there is none."""
    found: dict[str, ForecastQuality | str] = {}
    for kind in FORECASTS:
        shares = forecast_shares(forecast, matrix.checkpoint, kind)
        try:
            found[kind] = compare_forecast(shares, matrix, signed=kind != FORECASTS[0])
        except ValueError as error:  # such as texts that share no n-gram at all
            found[kind] = str(error)
    return found


def compare_forecast(
    forecast: pd.DataFrame, matrix: Matrix, signed: bool = True
) -> ForecastQuality:
    """Compare a forecast [row experiments, columns] with measured shares of own effects.

    Without `signed`, sizes are compared: n-gram containment predicts no sign. Raises ValueError for
    an experiment that the forecast does not have, and as `rank_correlation` does.
    """
    names = list(matrix.experiments)
    missing = [n for n in names if n not in forecast.index or n not in forecast.columns]
    if missing:
        raise ValueError(f"the forecast has no row or no column {missing[0]!r}")
    predicted_NxN = forecast.loc[names, names].to_numpy(float)
    measured_NxN = measured_shares(matrix)
    if not signed:
        predicted_NxN, measured_NxN = np.abs(predicted_NxN), np.abs(measured_NxN)
    correlation = rank_correlation(predicted_NxN, measured_NxN, matrix.checkpoint)
    off_NxN = np.abs(predicted_NxN)
    off_NxN[np.eye(len(names), dtype=bool) | ~np.isfinite(off_NxN)] = -np.inf
    order = np.argsort(-off_NxN.max(1), kind="stable")
    interacting = {c.row for c in matrix.tested if c.minus == CONTROL and c.verdict == INTERACTS}
    needed = [k for k, r in enumerate(order) if f"alone/{names[r]}" in interacting]
    n, m = len(names), len(needed)
    saved = n - (max(needed, default=-1) + 1)
    return ForecastQuality(correlation, n, saved, n - m * (n + 1) / (m + 1))


def measured_shares(matrix: Matrix, names: Sequence[str] = ()) -> np.ndarray:
    """Return effects [rows, columns] as a share of the column's own; nan on the diagonal.

    Of these experiments; by default of all.
    """
    names = names or matrix.experiments
    found = np.full((len(names), len(names)), np.nan)
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            cell = matrix.find(f"alone/{row}", column)
            if cell is not None and cell.share is not None:
                found[i, j] = cell.share
    return found


@dataclasses.dataclass(frozen=True)
class Agreement:
    experiments: tuple[str, ...]
    """Those that both matrices have."""
    confusion: pd.DataFrame
    """Number of tested cells by verdict of the bursts (rows) and of full training (columns)."""
    powered: pd.DataFrame
    """The same, of cells in which both could detect an effect of the margin."""
    correlation: RankCorrelation | None
    """Of the off-diagonal effects, as shares of own effects, in columns that have an own effect in
    both; None for fewer than four experiments or two such columns."""


def compare_matrices(bursts: Matrix, full: Matrix) -> Agreement:
    """Compare the verdicts and effects of bursts with those of full training.

    Only cells of experiments that both have are compared: some experiments have no burst. Raises
    ValueError if no cell is in both.
    """
    names = tuple(name for name in bursts.experiments if name in full.experiments)
    pairs = [(cell, full.find(cell.row, cell.column, cell.minus)) for cell in bursts.tested]
    both = [(ours, theirs) for ours, theirs in pairs if theirs is not None]
    if not both:
        raise ValueError(
            f"no cell of {', '.join(bursts.experiments)} is one of {', '.join(full.experiments)}"
        )
    powered = [(ours, theirs) for ours, theirs in both if ours.powered and theirs.powered]
    shares = [measured_shares(matrix, names) for matrix in (bursts, full)]
    columns = np.isfinite(shares).all(0).any(0).sum()
    known = len(names) >= FEWEST and columns >= 2
    correlation = rank_correlation(*shares, "full training") if known else None
    return Agreement(names, _count(both), _count(powered), correlation)


def _count(pairs: Sequence[tuple[Cell, Cell]]) -> pd.DataFrame:
    counts = pd.DataFrame(0, index=list(VERDICTS), columns=list(VERDICTS))
    for ours, theirs in pairs:
        counts.loc[ours.verdict, theirs.verdict] += 1
    return counts


def agreement(confusion: pd.DataFrame) -> tuple[float, float]:
    """Return the share of cells with the same verdict, and Cohen's kappa.

    Kappa is 0 for a method that gives all cells one verdict, however often that is the right one;
    nan if both do, or without cells.
    """
    counts = confusion.to_numpy(float)
    total = counts.sum()
    if not total:
        return np.nan, np.nan
    same = float(np.trace(counts) / total)
    by_chance = float(counts.sum(0) @ counts.sum(1) / total**2)
    return same, (same - by_chance) / (1 - by_chance) if by_chance < 1 else np.nan
