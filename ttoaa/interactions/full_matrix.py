"""The dependence matrix of full training: the ground truth of bursts.

The rows are the runs `alone/NAME` and `run` of a study, each less the control run of its seed. With
few seeds no sign-flip test can reach p <= 0.05, so cells are judged in a split-plot design
(`statistics.split_plot`): the runs of a seed that do not contain the column's experiment, the
control run among them, share the noise of training, and so do the two that contain it. This assumes
normal noise, and the same variance of the runs that do not contain the experiment; `row_noise`
checks the latter.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy  # its submodules load when they are first used

from ttoaa.interactions.matrix import (
    ALPHA,
    EQUIVALENT,
    INTERACTS,
    MARGIN,
    UNDECIDED,
    Cell,
    Matrix,
    Place,
    check_margin,
    deciding_seeds,
    family_places,
    pivot_effects,
)
from ttoaa.runs import CONTROL, RUN
from ttoaa.statistics.multiplicity import holm
from ttoaa.statistics.power import interval_effect
from ttoaa.statistics.split_plot import fit, residuals

WITH = 2
"""Runs that contain a column's experiment: alone, and with all others."""


def measure_full(effects: pd.DataFrame, margin: float = MARGIN) -> Matrix:
    """Test the effects of full runs of one step; columns as in `effects.COLUMNS`.

    The tested family and the verdicts are those of `matrix.measure`. p is Holm's, of t tests, and
    `Cell.deviation` is pooled. Raises ValueError as `matrix.measure`, and for fewer than two seeds
    or two experiments.
    """
    check_margin(margin)
    table, items = _tables(effects)
    design = _Design(tuple(effects["experiment"].unique()), margin, table, items)
    family = family_places(design.names)
    others = [(f"alone/{name}", CONTROL, name) for name in design.names]
    others += [(RUN, CONTROL, name) for name in design.names]
    cells = (*design.judge(family), *map(design.describe, others))
    (checkpoint,) = effects["checkpoint"].unique()
    return Matrix(int(checkpoint), tuple(table.index), design.names, margin, cells)


def row_noise(effects: pd.DataFrame) -> dict[str, float]:
    """Return the mean variance of each run in other experiments' outcomes, relative to all runs'.

    It is 1 in expectation if all runs have the same variance, as `measure_full` assumes.
    """
    table, _ = _tables(effects)
    names = tuple(effects["experiment"].unique())
    found: dict[str, list[float]] = {}
    for name, values_RxS in zip(names, _arrange(table, names), strict=True):
        noise_R = (residuals(values_RxS[:-WITH]) ** 2).mean(1)
        if noise_R.any():
            for run, ratio in zip(_runs(names, name), noise_R / noise_R.mean(), strict=False):
                found.setdefault(run, []).append(float(ratio))
    return {run: float(np.mean(ratios)) for run, ratios in found.items()}


def _tables(effects: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return estimates, and half the width of their intervals, [seeds, (row, experiment)]."""
    names = tuple(effects["experiment"].unique())
    seeds = tuple(sorted(int(seed) for seed in effects["seed"].unique()))
    (checkpoint,) = effects["checkpoint"].unique()
    reach = effects.assign(reach=(effects["ci_high"] - effects["ci_low"]) / 2)
    return (
        pivot_effects(effects, "estimate", names, (), seeds, int(checkpoint)),
        pivot_effects(reach, "reach", names, (), seeds, int(checkpoint), complete=False),
    )


def _runs(names: Sequence[str], column: str) -> list[str]:
    """Return the runs of a column; the last `WITH` contain its experiment."""
    others = [f"alone/{name}" for name in names if name != column]
    return [CONTROL, *others, f"alone/{column}", RUN]


def _arrange(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """Return effects [columns, runs, seeds], those of the control run being 0."""
    return np.stack(
        [
            np.stack(
                [
                    np.zeros(len(table)) if run == CONTROL else table[run, name].to_numpy()
                    for run in _runs(names, name)
                ]
            )
            for name in names
        ]
    )


def column_weights(n: int) -> np.ndarray:
    """Return the contrasts [n + 2, runs] of a column of n experiments; runs are as in `_runs`.

    The tested ones are first: the effects of the n - 1 other experiments, and the contrast of all
    with the column's own. Its own effect and that of all follow.
    """
    weights = np.zeros((n + 2, n + 2))
    weights[: n - 1, 1:n] = np.eye(n - 1)
    weights[: n - 1, 0] = weights[n:, 0] = -1
    weights[n - 1, [n, n + 1]] = -1, 1
    weights[n, n] = weights[n + 1, n + 1] = 1
    return weights


class _Design:
    """The cells of a matrix as contrasts of runs."""

    def __init__(
        self, names: tuple[str, ...], margin: float, table: pd.DataFrame, items: pd.DataFrame
    ) -> None:
        self.names, self.margin, self.items, self.seeds = names, margin, items, len(table)
        n, weights = len(names), column_weights(len(names))
        design = fit(_arrange(table, names), WITH)
        self.plain = design.contrast(weights)
        self.p_CxK = self.plain.p_two_sided()
        # The own effect is a part of both sides of the test, so its noise counts.
        self.sides = [design.contrast(margin * weights[n] + sign * weights) for sign in (-1, 1)]
        self.p_equal_CxK = np.max([side.p_positive() for side in self.sides], 0)
        self.own_C = self.plain.estimate[:, n]
        self.has_own_C = self.plain.p_positive()[:, n] < ALPHA

    def place(self, place: Place) -> tuple[int, int]:
        """Return the column and the number of the contrast of a place."""
        row, minus, column = place
        c, n = self.names.index(column), len(self.names)
        if row == RUN:
            return c, n + 1 if minus == CONTROL else n - 1
        return c, n if row == f"alone/{column}" else _runs(self.names, column).index(row) - 1

    def describe(self, place: Place) -> Cell:
        at, (row, minus, column) = self.place(place), place
        mean, error = float(self.plain.estimate[at]), float(self.plain.error[at])
        seeds = error * scipy.stats.t.isf(0.025, self.plain.freedom[at])
        reaches = [self.items[run, column] for run in (row, minus) if run != CONTROL]
        both = math.hypot(seeds, *(math.sqrt(np.mean(reach**2)) for reach in reaches))
        deviation = error * math.sqrt(self.seeds)
        return Cell(*place, mean, mean - seeds, mean + seeds, mean - both, mean + both, deviation)

    def judge(self, family: Sequence[Place]) -> list[Cell]:
        """Return the cells of the tested family with their tests and verdicts."""
        at_K = tuple(np.transpose([self.place(place) for place in family]))
        p_K, p_equal_K = self.p_CxK[at_K], self.p_equal_CxK[at_K]
        adjusted = zip(holm(p_K), p_equal_K, holm(p_equal_K), strict=True)
        return [
            self._judge(place, float(p), float(p_equal), float(p_equal_holm), ALPHA / len(family))
            for place, (p, p_equal, p_equal_holm) in zip(family, adjusted, strict=True)
        ]

    def _judge(
        self, place: Place, p: float, p_equal: float, p_equal_holm: float, level: float
    ) -> Cell:
        cell, at = self.describe(place), self.place(place)
        own, freedom = float(self.own_C[at[0]]), round(float(self.plain.freedom[at]), 6)
        limit = self.margin * own
        detectable = interval_effect(cell.ci_low, cell.ci_high, freedom, alpha=level)
        verdict = INTERACTS if p <= ALPHA else EQUIVALENT if p_equal < ALPHA else UNDECIDED
        side = max(self.sides, key=lambda side: side.error[at])
        needed = None
        if verdict == UNDECIDED:
            freedoms = (freedom, float(side.freedom[at]))
            needed = deciding_seeds(
                cell.deviation,
                float(side.error[at]) * math.sqrt(self.seeds),
                limit,
                level,
                fewest=self.seeds + 1,
                per_seed=(freedoms[0] / (self.seeds - 1), freedoms[1] / (self.seeds - 1)),
            )
        return dataclasses.replace(
            cell,
            p=p,
            p_holm=p,
            share=cell.estimate / own if self.has_own_C[at[0]] else math.nan,
            p_equivalence=p_equal,
            p_equivalence_holm=p_equal_holm,
            detectable=detectable,
            powered=bool(detectable <= limit),
            verdict=verdict,
            seeds=needed,
        )
