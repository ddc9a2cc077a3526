"""Compare dependence matrices: a forecast with a measurement, bursts with full training."""

import dataclasses

import numpy as np
import pandas as pd

from ttoaa.interactions.matrix import INTERACTS, VERDICTS, Matrix
from ttoaa.runs import CONTROL
from ttoaa.statistics.matrix_correlation import RankCorrelation, rank_correlation


@dataclasses.dataclass(frozen=True)
class ForecastQuality:
    correlation: RankCorrelation
    rows: int
    saved_rows: int
    """Rows that a forecast which knew where to stop would not have run, missing no interaction.

    Rows run in the order of their largest forecast, and the last one needed is known only in
    hindsight: an upper bound of the saving.
    """


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
    off_NxN = np.where(np.eye(len(names), dtype=bool), -np.inf, np.abs(predicted_NxN))
    order = np.argsort(-off_NxN.max(1), kind="stable")
    interacting = {c.row for c in matrix.tested if c.minus == CONTROL and c.verdict == INTERACTS}
    needed = [k for k, r in enumerate(order) if f"alone/{names[r]}" in interacting]
    return ForecastQuality(correlation, len(names), len(names) - (max(needed, default=-1) + 1))


def measured_shares(matrix: Matrix) -> np.ndarray:
    """Return effects [rows, columns] as a share of the column's own; nan on the diagonal."""
    names = matrix.experiments
    found = np.full((len(names), len(names)), np.nan)
    for i, row in enumerate(names):
        for j, column in enumerate(names):
            cell = matrix.find(f"alone/{row}", column)
            if cell is not None and cell.share is not None:
                found[i, j] = cell.share
    return found


@dataclasses.dataclass(frozen=True)
class Agreement:
    confusion: pd.DataFrame
    """Number of tested cells by verdict of the bursts (rows) and of full training (columns)."""
    correlation: RankCorrelation
    """Of the off-diagonal effects."""


def compare_matrices(bursts: Matrix, full: Matrix) -> Agreement:
    """Compare the verdicts and effects of bursts with those of full training.

    Raises ValueError for matrices of different experiments.
    """
    if bursts.experiments != full.experiments:
        raise ValueError(
            f"matrices of the same experiments can be compared, not of {bursts.experiments} and "
            f"{full.experiments}"
        )
    pairs = [(cell, full.find(cell.row, cell.column, cell.minus)) for cell in bursts.tested]
    both = [(ours.verdict, theirs.verdict) for ours, theirs in pairs if theirs is not None]
    names = list(VERDICTS)
    counts = pd.DataFrame(0, index=names, columns=names)
    for ours, theirs in both:
        counts.loc[ours, theirs] += 1
    shares = measured_shares(bursts), measured_shares(full)
    return Agreement(counts, rank_correlation(*shares, "full training"))
