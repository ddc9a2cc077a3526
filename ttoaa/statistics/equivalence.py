"""Equivalence tests: evidence that two models differ by less than a margin chosen beforehand.

Two one-sided tests (TOST, Schuirmann 1987) show that the difference is above -margin and below
+margin; a significance test that fails shows neither. The interval is at 90%: it lies within the
margins if and only if p < 0.05.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import scipy  # its submodules load when they are first used

ALPHA = 0.05
_EXACT = 200
"""Largest number of items for which the test of shares is exact; it takes 0.1 s."""


@dataclasses.dataclass(frozen=True)
class Equivalence:
    difference: float
    low: float
    high: float
    """Bounds of the 90% interval."""
    p: float
    """The larger p of the two one-sided tests; nan for values without spread."""

    @property
    def equivalent(self) -> bool:
        return self.p < ALPHA


def paired_equivalence(differences_N: np.ndarray, margin: float) -> Equivalence:
    """Test whether the mean of n items' differences (run - control) is within +-margin.

    By t tests; p is nan if all differences are the same. Use `binary_equivalence` for 0/1 answers,
    whose differences are not normal. Raises ValueError for fewer than two items, values that are
    not finite, or a margin that is not positive.
    """
    d_N = _check_values(differences_N, margin)
    squared_error = d_N.var(ddof=1) / len(d_N) if np.ptp(d_N) else 0.0
    return _by_t(d_N.mean(), squared_error, len(d_N) - 1, margin)


def two_sample_equivalence(a_N: np.ndarray, b_M: np.ndarray, margin: float) -> Equivalence:
    """Test whether the mean of group a (seeds, say) is within +-margin of that of group b.

    By Welch's t tests, without assuming equal spread. Errors as in `paired_equivalence`.
    """
    a_N, b_M = _check_values(a_N, margin), _check_values(b_M, margin)
    parts = [x.var(ddof=1) / len(x) if np.ptp(x) else 0.0 for x in (a_N, b_M)]
    freedoms = (len(a_N) - 1, len(b_M) - 1)
    squared_error = sum(parts)
    spread = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    freedom = squared_error**2 / spread if spread else 1
    return _by_t(a_N.mean() - b_M.mean(), squared_error, freedom, margin)


def relative_equivalence(
    differences_N: np.ndarray, references_N: np.ndarray, share: float
) -> Equivalence:
    """Test whether the mean difference is within +-share of the mean reference effect.

    Both are measured in the same n units (seeds, say), so the margin is as uncertain as the
    reference. `difference` is the ratio of the means and `low` and `high` its interval (Fieller
    1954); all are nan where the reference is not shown to be positive, and then the test does not
    find equivalence either. Errors as in `paired_equivalence`.
    """
    d_N, reference_N = _check_values(differences_N, share), _check_values(references_N, share)
    if len(d_N) != len(reference_N):
        raise ValueError("an equivalence test needs a reference effect for every difference")
    sides = (share * reference_N - d_N, share * reference_N + d_N)
    p = float(np.max([_p_positive(side_N) for side_N in sides]))
    ratio = low = high = math.nan
    if _p_positive(reference_N) < ALPHA:
        ratio = d_N.mean() / reference_N.mean()
        # The bounds r are where the t statistic of mean(d - r * reference) is critical.
        squared = scipy.stats.t.ppf(1 - ALPHA, len(d_N) - 1) ** 2 / len(d_N)
        (dd, dr), (_, rr) = np.cov(d_N, reference_N)
        a = reference_N.mean() ** 2 - squared * rr
        b = d_N.mean() * reference_N.mean() - squared * dr
        c = d_N.mean() ** 2 - squared * dd
        reach = math.sqrt(max(0.0, b * b - a * c)) / a
        low, high = b / a - reach, b / a + reach
    return Equivalence(float(ratio), float(low), float(high), p)


def _p_positive(values_N: np.ndarray) -> float:
    """Return the p-value of a one-sided t test that the mean is positive; nan without spread."""
    if not np.ptp(values_N):
        return math.nan
    return float(scipy.stats.ttest_1samp(values_N, 0, alternative="greater").pvalue)


def binary_equivalence(run_N: np.ndarray, control_N: np.ndarray, margin: float) -> Equivalence:
    """Test whether the accuracy of the run is within +-margin of the control's.

    Uses the score test of a difference of paired proportions (Nam 1997; Tango 1998 for its
    interval) for n items that are right (1) or wrong (0) under each. Up to 200 items the test is
    exact (unconditional): p is the largest probability of a score at most as large, over all
    proportions that differ by the margin, so the error rate is at most 5%. Above 200 items p is the
    score's normal approximation, with an error rate of up to 6.0% at 201 to 400 items and margins
    of 0.02 to 0.7 (`python -m tests.statistics.coverage --only='of shares, margin'` lists both
    kinds). Raises ValueError for values other than 0 and 1, groups of different size, or a margin
    outside (0, 1).
    """
    run_N, control_N = (np.asarray(x, float) for x in (run_N, control_N))
    if run_N.ndim != 1 or run_N.shape != control_N.shape or not len(run_N):
        raise ValueError("run and control must score the same items, one at least")
    if not (np.isin(run_N, (0, 1)).all() and np.isin(control_N, (0, 1)).all()):
        raise ValueError("values must be 0 or 1: paired_equivalence takes others")
    if not 0 < margin < 1:
        raise ValueError(f"the margin of a difference of shares must lie in (0, 1), not {margin}")
    n = len(run_N)
    gained, lost = int((run_N > control_N).sum()), int((run_N < control_N).sum())

    def p_of(gained: int, lost: int, bound: float) -> float:
        if n <= _EXACT:
            return _exact_p(gained, lost, n, bound)
        return float(_score_p(np.array(gained), np.array(lost), n, bound))

    above = functools.partial(p_of, gained, lost)
    below = functools.partial(p_of, lost, gained)
    difference = (gained - lost) / n
    low, high = -_bound(below, -difference, margin), _bound(above, difference, margin)
    return Equivalence(difference, low, high, max(above(margin), below(margin)))


def _by_t(difference: float, squared_error: float, freedom: float, margin: float) -> Equivalence:
    if squared_error == 0:
        return Equivalence(float(difference), math.nan, math.nan, math.nan)
    error = math.sqrt(squared_error)
    p = scipy.stats.t.sf((margin - abs(difference)) / error, freedom)
    reach = scipy.stats.t.ppf(1 - ALPHA, freedom) * error
    return Equivalence(float(difference), difference - reach, difference + reach, float(p))


def _score_p(gained: np.ndarray, lost: np.ndarray, n: int, bound: float) -> np.ndarray:
    """Return p-values of (gained - lost) / n if the true difference is `bound` or more."""
    # Maximum-likelihood share of lost items if the difference is `bound`: root of a quadratic.
    b = (2 * n - gained + lost) * bound - gained - lost
    c = -lost * bound * (1 - bound)
    share = (np.sqrt(np.maximum(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * share + bound * (1 - bound))
    spread = np.sqrt(np.where(variance > 0, variance, 1))
    return np.where(variance > 0, scipy.special.ndtr((gained - lost - n * bound) / spread), 1.0)


def _exact_p(gained: int, lost: int, n: int, bound: float) -> float:
    """Return the largest probability, over shares of lost items, of a `_score_p` at most as large.

    The true difference is `bound`; a larger one makes such results less likely.
    """
    count_N = np.arange(n + 1)
    lost_NxN, gained_NxN = count_N[:, None], count_N[None]
    observed = _score_p(np.array(gained), np.array(lost), n, bound) + 1e-12
    within_NxN = (_score_p(gained_NxN, lost_NxN, n, bound) <= observed) & (
        lost_NxN + gained_NxN <= n
    )
    most_N = np.where(within_NxN.any(1), n - np.argmax(within_NxN[:, ::-1], axis=1), -1)
    most_N = np.minimum(np.maximum.accumulate(most_N), n - count_N)
    known_N = most_N >= 0
    most_N, count_N = most_N[known_N], count_N[known_N]

    def chances(lost_S: np.ndarray) -> np.ndarray:
        lost_Sx1 = lost_S[:, None]
        gained_Sx1 = np.clip((lost_Sx1 + bound) / np.maximum(1 - lost_Sx1, 1e-300), 0, 1)
        some_SxN = (
            scipy.special.binom(n, count_N) * lost_Sx1**count_N * (1 - lost_Sx1) ** (n - count_N)
        )
        return (some_SxN * scipy.special.bdtr(most_N, n - count_N, gained_Sx1)).sum(1)

    shares_S, best = np.linspace(max(0.0, -bound), (1 - bound) / 2, 41), 0.0
    for _ in range(3):  # refine around the maximum
        found_S = chances(shares_S)
        best, at = max(best, float(found_S.max())), int(found_S.argmax())
        shares_S = np.linspace(
            shares_S[max(0, at - 1)], shares_S[min(at + 1, len(shares_S) - 1)], 21
        )
    return min(1.0, best)


def _bound(p_of: Callable[[float], float], difference: float, margin: float) -> float:
    """Return the upper bound of the difference, where `p_of` falls below alpha.

    The bound is below the margin if and only if the p-value of the margin is below alpha.
    """
    largest = 1 - 1e-9  # at 1 itself the score has no spread
    inside, outside = (difference, margin) if p_of(margin) < ALPHA else (margin, largest)
    if difference >= outside or p_of(outside) >= ALPHA:
        return 1.0
    search = scipy.optimize.brentq
    return float(search(lambda at: p_of(at) - ALPHA, max(inside, difference), outside, xtol=1e-9))


def _check_values(values: np.ndarray, margin: float) -> np.ndarray:
    x = np.asarray(values, float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError("an equivalence test needs a vector of at least two finite values")
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"the margin of an equivalence test must be positive, not {margin}")
    return x
