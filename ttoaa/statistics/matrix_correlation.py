"""Rank correlation of two square matrices over the same things, off the diagonal.

Cells that share a row or a column depend on each other, so things are resampled and relabelled, not
cells (quadratic assignment, Krackhardt 1988; vertex bootstrap, Snijders and Borgatti 1999).
"""

import dataclasses

import numpy as np
import scipy  # its submodules load when they are first used

from ttoaa.statistics.bootstrap import keyed_rng

FEWEST = 4
_DRAWS = 999


@dataclasses.dataclass(frozen=True)
class RankCorrelation:
    rho: float
    low: float
    high: float
    """95% percentile interval; with fewer than about 10 things it is a rough one."""
    p: float
    """Two-sided, over relabellings of the things in one of the matrices."""
    n: int
    """Cells that both matrices have."""


def rank_correlation(a_NxN: np.ndarray, b_NxN: np.ndarray, *key: object) -> RankCorrelation:
    """Return Spearman's correlation of the off-diagonal cells that are finite in both matrices.

    `key` seeds the resampling. Raises ValueError for matrices of different or other shapes, fewer
    than four things, or cells without spread.
    """
    a_NxN, b_NxN = (np.asarray(x, float) for x in (a_NxN, b_NxN))
    n = len(a_NxN)
    if n < FEWEST or a_NxN.shape != (n, n) or b_NxN.shape != (n, n):
        raise ValueError(
            f"a rank correlation needs two square matrices of at least {FEWEST} things, not "
            f"{a_NxN.shape} and {b_NxN.shape}"
        )
    every, rng = np.arange(n), keyed_rng("rank correlation", *key)
    rho, cells = _spearman(a_NxN, b_NxN, every, every)
    if not np.isfinite(rho):
        raise ValueError("a rank correlation needs cells with spread in both matrices")
    permuted_R = [_spearman(a_NxN, b_NxN, every, rng.permutation(n))[0] for _ in range(_DRAWS)]
    p = (1 + np.sum(np.abs(permuted_R) >= abs(rho) - 1e-12)) / (1 + len(permuted_R))
    drawn_RxN = rng.integers(0, n, (_DRAWS, n))
    drawn_R = [_spearman(a_NxN, b_NxN, drawn_N, drawn_N)[0] for drawn_N in drawn_RxN]
    low, high = np.nanquantile(drawn_R, [0.025, 0.975])
    return RankCorrelation(rho, float(low), float(high), float(p), cells)


def _spearman(
    a_NxN: np.ndarray, b_NxN: np.ndarray, of_a_N: np.ndarray, of_b_N: np.ndarray
) -> tuple[float, int]:
    """Return the correlation and the number of cells, with things drawn for either matrix."""
    a, b = a_NxN[np.ix_(of_a_N, of_a_N)], b_NxN[np.ix_(of_b_N, of_b_N)]
    use = (of_a_N[:, None] != of_a_N) & np.isfinite(a) & np.isfinite(b)
    ranks = [scipy.stats.rankdata(x[use]) for x in (a, b)]
    if use.sum() < 3 or any(np.ptp(rank) == 0 for rank in ranks):
        return np.nan, int(use.sum())
    return float(np.corrcoef(*ranks)[0, 1]), int(use.sum())
