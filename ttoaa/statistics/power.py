"""The smallest difference that a test detects: print it next to every "no effect".

Tests are two-sided, by default at level 0.05 with power 0.8. For k tests that share a family-wise
error, pass alpha / k (Bonferroni).
"""

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable

import scipy  # its submodules load when they are first used

from ttoaa.statistics.bootstrap import FEWEST

MOST_UNITS = 4096
"""Largest number of items or seeds that a search proposes."""
_CERTAIN = 50.0
"""Standard errors at which a one-sided test of two or more items cannot miss (p < 0.02)."""

INDEPENDENT_ANSWERS = math.sqrt(0.5)
"""The largest standard deviation of the difference of two independent 0/1 answers that are equally
often right. Answers of two runs to one question agree more often than that."""


@dataclasses.dataclass(frozen=True)
class Precision:
    """What a study's design says of the difference of an outcome before anything is trained."""

    sizes: tuple[int, ...]
    """Units of the interval, such as items or documents: one number where each unit is compared
    with itself in the control run, else those of two groups that are compared."""
    units: str
    deviation: float | None = None
    """Standard deviation of a unit's difference if nothing has an effect; None: not known before
    the run."""
    bound: bool = False
    """Whether `deviation` is an upper bound."""
    scale: str = ""
    """What the difference is measured in."""

    @classmethod
    def of_auc(cls, members: int, nonmembers: int, units: str) -> "Precision":
        """Return that of an AUC less the control run's, of scores that tell nothing.

        Each AUC has the variance of a Mann-Whitney statistic; scores of the two runs count as
        independent, which is an upper bound.
        """
        n, total = (members, nonmembers), members + nonmembers
        return cls(n, units, math.sqrt(2 * (total + 1) / (12 * total)), True, "(AUC)")

    @classmethod
    def of_rate(
        cls, members: int, nonmembers: int, units: str, false_positives: float = 0.01
    ) -> "Precision":
        """Return that of a true-positive rate, with the same assumptions as `of_auc`."""
        deviation = math.sqrt(2 * false_positives * (1 - false_positives))
        return cls((members, nonmembers), units, deviation, True, "(true-positive rate)")

    @classmethod
    def of_answers(cls, sizes: tuple[int, ...], units: str) -> "Precision":
        """Return that of a share of right answers."""
        return cls(sizes, units, INDEPENDENT_ANSWERS, True, "(share of right answers)")

    def detectable(self, power: float = 0.8, alpha: float = 0.05) -> float | None:
        """Return the difference that is found, in standard deviations where these are unknown.

        None: fewer units than an interval needs.
        """
        deviation = 1.0 if self.deviation is None else self.deviation
        if min(self.sizes) < FEWEST:
            return None
        first, *second = self.sizes
        if not second:
            return paired_effect(deviation, first, power, alpha)
        return two_sample_effect(deviation, first, second[0], power, alpha)


def paired_effect(deviation: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the mean difference of n items that a paired t test detects.

    `deviation` is the standard deviation of one item's difference; the result is in its unit. Exact
    for normal differences (noncentral t). If a share d of 0/1 answers differs between the models,
    the deviation is at most sqrt(d).
    """
    _check(deviation, (n,), power, alpha)
    if n < 2:
        raise ValueError("a t test needs at least two items")
    return _t_effect(n - 1, power, alpha) * deviation / math.sqrt(n)


def two_sample_effect(
    deviation: float, n_a: int, n_b: int, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the difference of two groups' means (seeds, say) that a pooled t test detects.

    Exact for normal groups that both have this standard deviation (noncentral t).
    """
    _check(deviation, (n_a, n_b), power, alpha)
    if n_a + n_b < 3:
        raise ValueError("a two-sample t test needs at least three items")
    return _t_effect(n_a + n_b - 2, power, alpha) * deviation * math.sqrt(1 / n_a + 1 / n_b)


def interval_effect(low: float, high: float, freedom: float, alpha: float = 0.05) -> float:
    """Return the difference that a t test at `alpha` detects with the error of a 95% interval.

    For bootstrap intervals, which have the width of t intervals, this is an approximation.
    """
    error = (high - low) / 2 / scipy.stats.t.isf(0.025, freedom)
    return float(_t_effect(freedom, 0.8, alpha) * error)


def runs_needed(
    deviation: float, effect: float, alpha: float = 0.05, power: float = 0.8, most: int = 1000
) -> int | None:
    """Return the fewest runs, of three or more, with which a paired t test detects `effect` > 0.

    `deviation` is the standard deviation of the runs' differences. None: more than `most`.
    """
    numbers = range(3, most + 1)
    at = bisect.bisect_left(
        numbers, True, key=lambda n: paired_effect(deviation, n, power, alpha) <= effect
    )
    return numbers[at] if at < len(numbers) else None


def units_to_detect(
    deviation: float,
    effect: float,
    power: float = 0.8,
    alpha: float = 0.05,
    per_unit: float = 1.0,
) -> int | None:
    """Return how many items (seeds, say) a paired t test needs to detect this effect.

    `per_unit` is the number of degrees of freedom that each item after the first adds: more than 1
    for a deviation that is pooled. None if more than `MOST_UNITS` are needed.
    """
    _check(deviation, (1,), power, alpha)

    def enough(n: int) -> bool:
        return _t_effect(per_unit * (n - 1), power, alpha) * deviation / math.sqrt(n) <= effect

    return _fewest(enough)


def units_for_equivalence(
    deviation: float,
    margin: float,
    power: float = 0.8,
    alpha: float = 0.05,
    per_unit: float = 1.0,
) -> int | None:
    """Return how many items a paired equivalence test needs to find a difference of 0 equivalent.

    None if more than `MOST_UNITS` are needed; `per_unit` as in `units_to_detect`. Each of the two
    one-sided tests gets half of the errors, which is a lower bound of the power of both and close
    to it.
    """
    _check(deviation, (1,), power, alpha)

    def enough(n: int) -> bool:
        shift = margin * math.sqrt(n) / deviation if deviation else math.inf
        freedom = per_unit * (n - 1)
        critical = scipy.stats.t.isf(alpha, freedom)
        missed = scipy.stats.nct.cdf(critical, freedom, shift) if shift < _CERTAIN else 0.0
        return float(missed) <= (1 - power) / 2

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 2 to `MOST_UNITS` that is enough; None if none is."""
    low, high = 1, 2
    while not enough(high):
        if high >= MOST_UNITS:
            return None
        low, high = high, min(2 * high, MOST_UNITS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@functools.lru_cache
def _t_effect(freedom: float, power: float, alpha: float) -> float:
    """Return the noncentrality at which a two-sided t test has this power."""
    critical = scipy.stats.t.isf(alpha / 2, freedom)

    def surplus(shift: float) -> float:
        # The tail on the wrong side, mirrored: SciPy's cdf is nan where it vanishes.
        return float(sum(scipy.stats.nct.sf(critical, freedom, [shift, -shift]))) - power

    upper = 1.0
    while surplus(upper) < 0:
        upper *= 2
    return float(scipy.optimize.brentq(surplus, 0.0, upper))


def _check(deviation: float, sizes: tuple[int, ...], power: float, alpha: float) -> None:
    if not (math.isfinite(deviation) and deviation >= 0):
        raise ValueError(f"a standard deviation must be a number >= 0, not {deviation}")
    if min(sizes) < 1:
        raise ValueError(f"groups need at least one item, not {min(sizes)}")
    if not 0 < alpha < power < 1:
        raise ValueError(f"0 < alpha < power < 1 must hold, not alpha {alpha} and power {power}")
