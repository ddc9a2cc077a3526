"""The smallest difference that a test would find: to print beside every "no effect" found.

Two-sided tests at level `alpha` with power 0.8 unless said otherwise. Where k tests share the
family-wise error, alpha / k (Bonferroni) gives what each finds.
"""

import math

import numpy as np
from scipy import optimize, stats


def paired_effect(deviation: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Mean difference of n items that a t test finds, in the unit of `deviation`, that of one item.

    Exact for normal differences (noncentral t). Right or wrong answers of which a share d differs
    between the models have a deviation of at most sqrt(d). Raises ValueError as `_checked` says.
    """
    _checked(deviation, (n,), power, alpha)
    if n < 2:
        raise ValueError("a t test needs at least two items")
    return _t_effect(n - 1, power, alpha) * deviation / math.sqrt(n)


def two_sample_effect(
    deviation: float, n_a: int, n_b: int, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Difference of the means of two groups (say, of seeds) that a pooled t test finds.

    Exact for normal groups, both of this deviation (noncentral t).
    """
    _checked(deviation, (n_a, n_b), power, alpha)
    if n_a + n_b < 3:
        raise ValueError("a two-sample t test needs at least three items")
    return _t_effect(n_a + n_b - 2, power, alpha) * deviation * math.sqrt(1 / n_a + 1 / n_b)


def share_effect(
    share: float, n_a: int, n_b: int, power: float = 0.8, alpha: float = 0.05
) -> float:
    """By how much group a's share must exceed `share`, group b's, for a z test to find it.

    The test pools the two shares (it is chi-square's, uncorrected). The normal approximation is of
    the power alone and needs some successes and failures in each group. A fall from `share` is a
    rise of 1 - share. inf where even a share of 1 would be missed.
    """
    if not 0 <= share < 1:
        raise ValueError(f"a share that can rise lies in [0, 1), not {share}")
    _checked(1.0, (n_a, n_b), power, alpha)

    def surplus(effect: float) -> float:
        return share_power(share, share + effect, n_a, n_b, alpha) - power

    most = 1 - share
    return optimize.brentq(surplus, 1e-12, most) if surplus(most) >= 0 else math.inf


def share_power(b: float, a: float, n_a: int, n_b: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided z test tells share a of n_a items from share b of n_b items."""
    pooled = (a * n_a + b * n_b) / (n_a + n_b)
    null = math.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    error = math.sqrt(a * (1 - a) / n_a + b * (1 - b) / n_b)
    reach = stats.norm.isf(alpha / 2) * null
    ends = np.array([abs(a - b) - reach, -abs(a - b) - reach])
    if error == 0:
        return float((ends > 0).any())
    return float(stats.norm.cdf(ends / error).sum())


def _t_effect(freedom: int, power: float, alpha: float) -> float:
    """The noncentrality at which a two-sided t test has this power."""
    critical = stats.t.isf(alpha / 2, freedom)

    def surplus(shift: float) -> float:
        # The wrong side's tail, mirrored: SciPy's cdf of it is nan where it vanishes.
        return float(sum(stats.nct.sf(critical, freedom, [shift, -shift]))) - power

    upper = 1.0
    while surplus(upper) < 0:
        upper *= 2
    return float(optimize.brentq(surplus, 0.0, upper))


def _checked(deviation: float, sizes: tuple[int, ...], power: float, alpha: float) -> None:
    """Raises ValueError for a negative deviation, an empty group, or alpha < power < 1 not held."""
    if not (math.isfinite(deviation) and deviation >= 0):
        raise ValueError(f"a deviation is a number from 0 up, not {deviation}")
    if min(sizes) < 1:
        raise ValueError(f"groups need at least one item, not {min(sizes)}")
    if not 0 < alpha < power < 1:
        raise ValueError(f"0 < alpha < power < 1 must hold, not alpha {alpha} and power {power}")
