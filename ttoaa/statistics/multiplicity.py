"""P-values adjusted for multiple comparisons.

Holm controls the probability of any false finding (the family-wise error), Benjamini and Hochberg
the expected share of false findings. statistics.permutation has the family-wise test for outcomes
that depend on each other.
"""

from collections.abc import Sequence

import numpy as np
import scipy  # its submodules load when they are first used


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return adjusted p-values [K] in the given order (Holm 1979): reject those <= alpha.

    Controls the family-wise error under any dependence.
    """
    p_K = _check_p_values(p_values)
    order = np.argsort(p_K)
    stepped = np.maximum.accumulate(p_K[order] * np.arange(len(p_K), 0, -1))
    adjusted_K = np.empty_like(p_K)
    adjusted_K[order] = np.minimum(stepped, 1)
    return adjusted_K


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return adjusted p-values [K] in the given order (Benjamini and Hochberg 1995).

    Controls the false discovery rate for independent or positively dependent tests.
    """
    p_K = _check_p_values(p_values)
    return scipy.stats.false_discovery_control(p_K) if len(p_K) else p_K


def _check_p_values(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    p_K = np.array(p_values, float)
    if p_K.ndim != 1 or not ((p_K >= 0) & (p_K <= 1)).all():
        raise ValueError("p-values must be a vector of numbers from 0 to 1: leave out nan")
    return p_K
