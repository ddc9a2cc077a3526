"""Equivalence tests: evidence that two models differ by less than a margin chosen beforehand.

Two one-sided tests (TOST, Schuirmann 1987) show that the difference is above -margin and below
+margin; a significance test that fails shows neither. The interval is at 90%: it lies within the
margins if and only if p < 0.05.
"""

import dataclasses
import math

import numpy as np
import scipy  # its submodules load when they are first used

ALPHA = 0.05


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


def binary_equivalence(run_N: np.ndarray, control_N: np.ndarray, margin: float) -> Equivalence:
    """Test whether the share of right answers of the run is within +-margin of the control's.

    For n items that are right (1) or wrong (0) under both, by the score test of a difference of
    paired shares (Nam 1997; Tango 1998 for its interval). It stays valid where hardly any item
    differs: no difference among n items has a p of about (1 - margin)^n. Raises ValueError for
    values other than 0 and 1, groups of different size, or a margin outside (0, 1).
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
    p = max(_score_p(gained, lost, n, margin), _score_p(lost, gained, n, margin))
    high, low = _score_bound(gained, lost, n), -_score_bound(lost, gained, n)
    return Equivalence((gained - lost) / n, low, high, p)


def _by_t(difference: float, squared_error: float, freedom: float, margin: float) -> Equivalence:
    if squared_error == 0:
        return Equivalence(float(difference), math.nan, math.nan, math.nan)
    error = math.sqrt(squared_error)
    p = scipy.stats.t.sf((margin - abs(difference)) / error, freedom)
    reach = scipy.stats.t.ppf(1 - ALPHA, freedom) * error
    return Equivalence(float(difference), difference - reach, difference + reach, float(p))


def _score_p(gained: int, lost: int, n: int, bound: float) -> float:
    """Return the p-value of (gained - lost) / n if the true difference is `bound` < 1 or more."""
    # Maximum-likelihood share of lost items if the difference is `bound`: root of a quadratic.
    b = (2 * n - gained + lost) * bound - gained - lost
    c = -lost * bound * (1 - bound)
    share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * share + bound * (1 - bound))
    if variance <= 0:
        return 1.0
    return float(scipy.special.ndtr((gained - lost - n * bound) / math.sqrt(variance)))


def _score_bound(gained: int, lost: int, n: int) -> float:
    """Return the upper bound of the difference, by bisection on what `_score_p` rejects."""
    inside, outside = (gained - lost) / n, 1.0
    for _ in range(60):
        middle = (inside + outside) / 2
        if _score_p(gained, lost, n, middle) < ALPHA:
            outside = middle
        else:
            inside = middle
    return outside


def _check_values(values: np.ndarray, margin: float) -> np.ndarray:
    x = np.asarray(values, float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError("an equivalence test needs a vector of at least two finite values")
    if not (margin > 0 and math.isfinite(margin)):
        raise ValueError(f"the margin of an equivalence test must be positive, not {margin}")
    return x
