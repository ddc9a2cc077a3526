"""P-values, of one comparison and of many at once.

Holm keeps the chance of a single false finding among all below alpha (the family-wise error),
Benjamini and Hochberg the expected share of false ones among the findings. `permutation` has the
family-wise test for outcomes that go together.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]


def mann_whitney(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    alternative: Alternative = "greater",
) -> float:
    """P-value that scores a [n] are drawn like b [m], against a lying above b ('greater').

    The test of membership that goes with an AUC: U / (n m) of members and non-members. Exact where
    there are no ties and a group has at most eight, else the normal approximation with ties and
    continuity corrected (SciPy).

    Raises ValueError for a group that is empty or holds nan.
    """
    groups = [np.asarray(group, float) for group in (a, b)]
    if any(group.ndim != 1 or not group.size or np.isnan(group).any() for group in groups):
        raise ValueError("a Mann-Whitney test needs two non-empty vectors without nan")
    if np.ptp(np.concatenate(groups)) == 0:
        return 1.0
    return float(stats.mannwhitneyu(*groups, alternative=alternative).pvalue)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p-values [K], in the order given (Holm 1979): reject those at most alpha.

    Keeps the family-wise error whatever the dependence. Raises ValueError for what is no p-value.
    """
    p_K = _checked(p_values)
    order = np.argsort(p_K)
    stepped = np.maximum.accumulate(p_K[order] * np.arange(len(p_K), 0, -1))
    adjusted_K = np.empty_like(p_K)
    adjusted_K[order] = np.minimum(stepped, 1)
    return adjusted_K


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p-values [K], in the order given (Benjamini and Hochberg 1995).

    Keeps the false discovery rate where the tests are independent or positively dependent. Raises
    ValueError for what is no p-value.
    """
    p_K = _checked(p_values)
    return stats.false_discovery_control(p_K) if len(p_K) else p_K


def _checked(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    p_K = np.array(p_values, float)
    if p_K.ndim != 1 or not ((p_K >= 0) & (p_K <= 1)).all():
        raise ValueError("p-values must be a vector of numbers from 0 to 1: leave out nan")
    return p_K
