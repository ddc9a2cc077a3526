"""Contrasts of runs that share seeds, for few seeds and many runs (split-plot design).

Every seed is a block: its runs share initial weights, the order of the data, and items. Runs that
contain an experiment also share, in every seed, the strength with which its items of that seed are
learned. So runs are in two plots, with and without the experiment, and a seed has an effect of its
own on each. In outcome c, run r and seed s:

    y[c, r, s] = mean[c, r] + seed[c, s] + seed_of_plot[c, plot of r, s] + noise[c, r, s]

A contrast of runs within one plot has only noise, whose variance is pooled over the runs of the
plot: with R runs and S seeds it has (R - 1)(S - 1) degrees of freedom, where a paired t test of two
runs has S - 1. A contrast between the plots also has the variance of the seeds' difference between
plots, with S - 1 degrees of freedom. Degrees of freedom of sums are Satterthwaite's (1946).

Assumptions: noise is normal, and all runs of one plot have the same variance in an outcome. The
plot with the experiment has few runs (two: alone, and with all others), so its variance is
moderated: averaged with the other plot's variance times the mean ratio of both over all outcomes,
which counts as `PRIOR` degrees of freedom (as in Smyth 2004, who estimates that number; with few
outcomes this cannot be done). Simulated error rates, also where the ratio differs by 100 between
outcomes and with heavy tails: `python -m tests.statistics.split_plot_errors`.
"""

import dataclasses

import numpy as np
import scipy  # its submodules load when they are first used

PRIOR = 4
"""Degrees of freedom of the ratio of variances that is common to all outcomes."""


@dataclasses.dataclass(frozen=True)
class Contrasts:
    """Contrasts [..., outcomes, contrasts] with standard errors and their degrees of freedom."""

    estimate: np.ndarray
    error: np.ndarray
    freedom: np.ndarray

    def p_two_sided(self) -> np.ndarray:
        """Return p-values of t tests; 1 for a contrast without noise, which cannot be tested."""
        return 2 * self._tail(np.abs(self.estimate), 0.5)

    def p_positive(self) -> np.ndarray:
        """Return one-sided p-values that the contrast is positive; 1 without noise."""
        return self._tail(self.estimate, 1.0)

    def _tail(self, estimate: np.ndarray, unknown: float) -> np.ndarray:
        known = self.error > 0
        t = np.divide(estimate, self.error, out=np.zeros_like(self.error), where=known)
        return np.where(known, scipy.stats.t.sf(t, self.freedom), unknown)


@dataclasses.dataclass(frozen=True)
class SplitPlot:
    """Runs of several outcomes: means [..., outcomes, runs], and variances of single values."""

    mean: np.ndarray
    variance: np.ndarray
    """[..., outcomes, 3]: of the noise without and with the experiment, and of the seeds'
    difference between both."""
    freedom: tuple[float, float, float]
    seeds: int
    treated: int
    """The last runs have the experiment."""

    def contrast(self, weights_KxR: np.ndarray) -> Contrasts:
        """Return K weighted sums of the runs; the weights of each must add up to 0."""
        plots = np.split(np.asarray(weights_KxR, float), [-self.treated], axis=1)
        within = [((w - w.mean(1, keepdims=True)) ** 2).sum(1) for w in plots]
        squares_Kx3 = np.stack([*within, plots[1].sum(1) ** 2], 1)
        parts = self.variance[..., None, :] * squares_Kx3 / self.seeds
        squared_error = parts.sum(-1)
        spread = (parts**2 / np.array(self.freedom)).sum(-1)
        known = spread > 0
        freedom = np.divide(squared_error**2, spread, out=np.ones_like(spread), where=known)
        return Contrasts(self.mean @ np.asarray(weights_KxR).T, np.sqrt(squared_error), freedom)


def fit(values: np.ndarray, treated: int) -> SplitPlot:
    """Estimate the variances of values [..., outcomes, runs, seeds].

    The last `treated` runs of every outcome have the experiment whose outcome it is; the experiment
    differs between outcomes. Raises ValueError for fewer than two seeds or two runs of a plot, and
    for values that are not finite.
    """
    *_, outcomes, runs, seeds = values.shape
    if seeds < 2 or min(treated, runs - treated) < 2 or not np.isfinite(values).all():
        raise ValueError(
            "a split plot needs at least two seeds, two runs with and two without the experiment, "
            f"and finite values, not {seeds} seeds and {runs} runs, {treated} with the experiment"
        )
    plots = np.split(values, [runs - treated], axis=-2)
    without, own = map(_interaction_variance, plots)
    ratio = np.divide(own, without, out=np.full_like(own, np.nan), where=without > 0)
    known = np.isfinite(ratio)
    common = np.where(known, ratio, 0).sum(-1) / np.maximum(known.sum(-1), 1)
    of_own = (treated - 1) * (seeds - 1)
    prior = min(PRIOR, (outcomes - 1) * of_own)
    moderated = (prior * common[..., None] * without + of_own * own) / (prior + of_own)
    between = (plots[1].mean(-2) - plots[0].mean(-2)).var(-1, ddof=1)
    freedom = ((runs - treated - 1) * (seeds - 1), prior + of_own, seeds - 1)
    variance = np.stack([without, moderated, between], -1)
    return SplitPlot(values.mean(-1), variance, freedom, seeds, treated)


def residuals(values: np.ndarray) -> np.ndarray:
    """Return what the means of runs and seeds leave over of values [..., runs, seeds]."""
    centred = values - values.mean(-1, keepdims=True)
    return centred - centred.mean(-2, keepdims=True)


def _interaction_variance(values: np.ndarray) -> np.ndarray:
    runs, seeds = values.shape[-2:]
    return (residuals(values) ** 2).sum((-2, -1)) / ((runs - 1) * (seeds - 1))
