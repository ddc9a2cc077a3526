"""Estimates with 95% intervals: bootstrap over items, paired with the control run; t over seeds.

Resampling is seeded by the name of the estimate, so a report has the same digits on every machine.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy  # its submodules load when they are first used

RESAMPLES = 2000
_TAIL = 0.025
_FEW = 8  # items, below which the percentiles of resamples lie too close to the mean
FEWEST = 6
"""Minimum number of items, or of groups of items, for an interval: with fewer the spread between
them is not estimated well enough."""
_CHUNK = 4_000_000  # elements of a block of resampling counts
_KEYS = ["item", "outcome", "condition"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One number of the run and its difference from the control run.

    `difference` is oriented by the expected sign: positive means as the experiment expects.
    """

    outcome: str
    condition: str
    n: int
    value: float
    ci_low: float
    ci_high: float
    control_value: float
    difference: float
    difference_ci_low: float
    difference_ci_high: float
    groups: int | None = None
    """Number of resampled groups of items, or of items of the smaller sample if they are too few
    for an interval; None: each item is its own group."""


def bootstrap(
    sizes: Sequence[int],
    statistic: Callable[..., np.ndarray],
    *key: object,
    centred: bool = False,
    groups: Sequence[np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, lower and upper bound [K] of K statistics by resampling each sample's items.

    `statistic(*counts)` gets counts_RxN for every sample of `sizes`, the number of times that each
    item is drawn in each of R resamples, and returns values_RxK. Statistics that share items (two
    models on one set) are thereby paired. With `groups`, which name the group of each item of a
    sample, [n] or None, groups are drawn as a whole; the counts of a sample then have other sums
    than n, and what is said below of items is true of groups.

    The percentiles are those of the expanded percentile interval (Hesterberg 2015, section 5.3).
    Resamples do not leave the range of the data. With fewer than 8 items in a sample, t bounds with
    the standard error of the resamples are therefore used. `centred` uses the percentiles, less the
    mean bias of the resamples, for statistics that noise increases, such as a root mean square:
    bounds for what the same number of other items would give on average. With fewer than `FEWEST`
    items in a sample, the bounds are nan. Raises ValueError for an empty sample.

    Coverage of a mean by the nominal 95%, measured within 0.01 by
    `python -m tests.statistics.coverage --only='bootstrap mean' --trials=4000`: right for symmetric
    values, too low for skewed ones.

    n            6    10    50   200
    normal      0.95  0.95  0.95  0.95
    exponential 0.90  0.91  0.94  0.95
    lognormal   0.84  0.87  0.91  0.93
    """
    if min(sizes) < 1:
        raise ValueError("a bootstrap needs at least one item in each sample")
    value_K = statistic(*(np.ones((1, n)) for n in sizes))[0]
    samples = [
        _Sample(n, names) for n, names in zip(sizes, groups or [None] * len(sizes), strict=True)
    ]
    smallest = min(sample.drawn for sample in samples)
    if smallest < FEWEST:
        return value_K, np.full_like(value_K, np.nan), np.full_like(value_K, np.nan)
    rng = keyed_rng(*key)
    block = max(1, min(RESAMPLES, _CHUNK // sum(sizes)))
    values_RxK = np.concatenate(
        [
            statistic(*(s.counts(rng, min(block, RESAMPLES - start)) for s in samples))
            for start in range(0, RESAMPLES, block)
        ]
    )
    t = scipy.stats.t.ppf(_TAIL, smallest - 1) * math.sqrt(smallest / (smallest - 1))
    if smallest < _FEW and not centred:
        reach_K = -t * values_RxK.std(0)
        return value_K, value_K - reach_K, value_K + reach_K
    tail = scipy.stats.norm.cdf(t)
    if centred:
        values_RxK = values_RxK - (values_RxK.mean(0) - value_K)
    low_K, high_K = np.quantile(values_RxK, [tail, 1 - tail], axis=0)
    return value_K, low_K, high_K


def keyed_rng(*key: object) -> np.random.Generator:
    """Return a generator seeded by its purpose (contract C3), the same on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


class _Sample:
    """A sample of n items that are drawn singly or, with names [n], as groups."""

    def __init__(self, n: int, names: np.ndarray | None) -> None:
        self.drawn, self._group_N = n, None
        if names is not None:
            found, self._group_N = np.unique(names, return_inverse=True)
            self.drawn = len(found)

    def counts(self, rng: np.random.Generator, resamples: int) -> np.ndarray:
        """Return float64[R, n]: how often each item is drawn in each resample."""
        n = self.drawn
        drawn_RxN = rng.integers(0, n, (resamples, n)) + np.arange(resamples)[:, None] * n
        counts = np.bincount(drawn_RxN.ravel(), minlength=resamples * n)
        counts_RxN = counts.reshape(resamples, n).astype(float)
        return counts_RxN if self._group_N is None else counts_RxN[:, self._group_N]


def bootstrap_mean(values: np.ndarray, *key: object) -> tuple[float, float, float]:
    """Return the mean of `values` [n] and its interval; ValueError if one is not finite."""
    values_N = _check_finite(values)
    n = len(values_N)
    results = bootstrap([n], lambda counts_RxN: counts_RxN @ values_N[:, None] / n, *key)
    value, low, high = (float(result_K[0]) for result_K in results)
    return value, low, high


def binomial_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934)."""
    interval = scipy.stats.binomtest(successes, n).proportion_ci(1 - 2 * _TAIL, method="exact")
    return float(interval.low), float(interval.high)


def paired_estimates(
    run: pd.DataFrame, control: pd.DataFrame, sign: Callable[[str], int]
) -> list[Estimate]:
    """Estimate the mean of each (outcome, condition) and its difference from the control run.

    Tables have columns item, condition, outcome, value, and may have `group`: items of one group
    share something that makes their values alike (an update, a document, a fact). Items are paired
    across the two models; groups are resampled as a whole, or single items where all groups of an
    (outcome, condition) are missing. With fewer than `FEWEST` of them there is no interval. If all
    values of single items are 0 or 1, the interval of the run's share is exact. That of the
    difference is a bootstrap, unless all pairs differ by the same amount, where a bootstrap
    interval would have no width: then it is the bound of `_unseen_range`.

    Raises ValueError if an item is missing on one side, occurs twice, or has no finite value.
    """
    control_value = _align_control(run, control)
    table = run.reset_index(drop=True)
    return [
        paired_estimate(
            outcome,
            condition,
            rows["value"].to_numpy(float),
            control_value[rows.index],
            sign(outcome),
            rows["group"].to_numpy() if "group" in rows and rows["group"].notna().any() else None,
        )
        for (outcome, condition), rows in table.groupby(_KEYS[1:], sort=False, observed=True)
    ]


def paired_estimate(
    outcome: str,
    condition: str,
    run_N: np.ndarray,
    control_N: np.ndarray,
    sign: int,
    group_N: np.ndarray | None = None,
) -> Estimate:
    """Estimate from the values of the same n items under the run and under the control.

    `group_N` names the group of each item, as in `paired_estimates`. Raises ValueError for values
    that are empty, not finite, or of different numbers of items.
    """
    both_Nx2 = _pairs(run_N, control_N, sign)
    n = len(both_Nx2)
    key = ("paired", outcome, condition)
    if group_N is not None and len(np.unique(group_N)) == n:
        group_N = None  # groups of one item are items
    mean_2, low_2, high_2 = bootstrap([n], _mean_of(both_Nx2), *key, groups=[group_N])
    if group_N is not None:
        groups, results = len(np.unique(group_N)), (mean_2, low_2, high_2)
        return estimate(outcome, condition, n, results, float(np.mean(control_N)), groups)
    if _binary(run_N) and n >= FEWEST:
        low_2[0], high_2[0] = binomial_interval(round(float(np.sum(run_N))), n)
        if _binary(control_N):
            low_2[1], high_2[1] = np.clip((low_2[1], high_2[1]), -1, 1)
        if _binary(control_N) and np.ptp(both_Nx2[:, 1]) == 0:
            below_2, above_2 = _unseen_range(both_Nx2, run_N, control_N)
            low_2[1], high_2[1] = mean_2[1] - below_2[1], mean_2[1] + above_2[1]
    return estimate(outcome, condition, n, (mean_2, low_2, high_2), float(np.mean(control_N)))


def difference_in_differences(
    outcome: str,
    condition: str,
    run_a: np.ndarray,
    control_a: np.ndarray,
    run_b: np.ndarray,
    control_b: np.ndarray,
    sign: int = 1,
    groups: Sequence[np.ndarray] | None = None,
) -> Estimate:
    """Compare group a (treated) with group b (holdout) under the run, minus that of the control.

    `value` is mean(run_a) - mean(run_b), `control_value` is mean(control_a) - mean(control_b);
    their difference does not depend on how hard the groups are. Items of a and b are resampled
    separately, each paired across the models; n counts the items of both. `groups` names the groups
    of the items of a and b, to resample these as a whole. For groups of 0/1 answers
    that are all alike, the interval is widened by `_unseen_range`, added in squares like variances
    of independent groups (MOVER, Zou and Donner 2008).

    Raises ValueError for values that are empty, not finite, or of different numbers of items.
    """
    a_Nx2, b_Nx2 = _pairs(run_a, control_a, sign), _pairs(run_b, control_b, sign)

    of_a, of_b = _mean_of(a_Nx2), _mean_of(b_Nx2)

    def statistic(counts_a: np.ndarray, counts_b: np.ndarray) -> np.ndarray:
        return of_a(counts_a) - of_b(counts_b)

    n_a, n_b = len(a_Nx2), len(b_Nx2)
    key = ("difference in differences", outcome, condition)
    value_2, low_2, high_2 = bootstrap([n_a, n_b], statistic, *key, groups=groups)
    below_a, above_a = _unseen_range(a_Nx2, run_a, control_a)
    below_b, above_b = _unseen_range(b_Nx2, run_b, control_b)
    low_2 = _widened(value_2, low_2, -1, below_a, above_b)
    high_2 = _widened(value_2, high_2, 1, above_a, below_b)
    control_value = float(np.mean(control_a) - np.mean(control_b))
    number = count_groups((n_a, n_b), groups)
    return estimate(outcome, condition, n_a + n_b, (value_2, low_2, high_2), control_value, number)


def count_groups(sizes: Sequence[int], groups: Sequence[np.ndarray] | None) -> int | None:
    """Return `Estimate.groups` of samples of these sizes: the fewest groups of a sample.

    None for single items that suffice for an interval.
    """
    fewest = min(sizes) if groups is None else min(len(np.unique(names)) for names in groups)
    return None if groups is None and fewest >= FEWEST else fewest


def _mean_of(values_NxK: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the weighted mean [R, K] as a function of counts_RxN."""
    return lambda counts_RxN: counts_RxN @ values_NxK / counts_RxN.sum(1, keepdims=True)


def estimate(
    outcome: str,
    condition: str,
    n: int,
    results: tuple[np.ndarray, np.ndarray, np.ndarray],
    control_value: float,
    groups: int | None = None,
) -> Estimate:
    """Make an `Estimate` from the `bootstrap` of the pair (value, difference)."""
    (value, difference), (low, d_low), (high, d_high) = (map(float, pair) for pair in results)
    return Estimate(
        outcome, condition, n, value, low, high, control_value, difference, d_low, d_high, groups
    )


def t_tests(values_SxK: np.ndarray) -> np.ndarray:
    """Return the two-sided p-value of a mean of zero in each column [K], by t tests over seeds.

    It is 1 for a column of zeros, and 0 for one of another constant.
    """
    count_S, mean_K = len(values_SxK), values_SxK.mean(0)
    error_K = values_SxK.std(0, ddof=1) / np.sqrt(count_S)
    t_K = np.divide(mean_K, error_K, out=np.where(mean_K == 0, 0, np.inf), where=error_K > 0)
    return np.asarray(2 * scipy.stats.t.sf(np.abs(t_K), count_S - 1))


def across_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over seeds and its t interval, seeds being units; one seed has none."""
    values_S = np.asarray(values, float)
    if not len(values_S):
        raise ValueError("a mean over seeds needs at least one seed")
    mean = float(values_S.mean())
    if len(values_S) < 2:
        return mean, math.nan, math.nan
    margin = scipy.stats.t.ppf(1 - _TAIL, len(values_S) - 1) * scipy.stats.sem(values_S)
    return mean, float(mean - margin), float(mean + margin)


def _check_finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError("values must be a vector of finite numbers")
    return array


def _pairs(run_N: np.ndarray, control_N: np.ndarray, sign: int) -> np.ndarray:
    """Return [n, 2]: each item's value under the run, and its difference from the control's."""
    run_N, control_N = _check_finite(run_N), _check_finite(control_N)
    if len(run_N) != len(control_N):
        sizes = f"{len(run_N)} and {len(control_N)}"
        raise ValueError(f"run and control must have values of the same items, not {sizes}")
    return np.stack([run_N, sign * (run_N - control_N)], 1)


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _unseen_range(
    both_Nx2: np.ndarray, run_N: np.ndarray, control_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far below and above the means of (value, difference) [2] the truth may lie.

    For 0/1 answers that are all alike, which resampling cannot vary. Up to a share of
    1 - 0.025^(1/n) of all items could differ (the exact bound); at worst they are at the other end,
    0 or 1 for a value, -1 or 1 for a difference. 0 where items differ, and for other values.
    """
    known_2 = np.array([_binary(run_N), _binary(run_N) and _binary(control_N)])
    share_2 = np.where(known_2 & (np.ptp(both_Nx2, axis=0) == 0), 1 - _TAIL ** (1 / len(run_N)), 0)
    return share_2 * (both_Nx2[0] - (0, -1)), share_2 * (1 - both_Nx2[0])


def _widened(
    value_2: np.ndarray, bound_2: np.ndarray, side: int, *unseen: np.ndarray
) -> np.ndarray:
    extra_2 = sum(reach_2**2 for reach_2 in unseen)
    further_2 = value_2 + side * np.sqrt((bound_2 - value_2) ** 2 + extra_2)
    return np.where(extra_2 > 0, further_2, bound_2)


def _align_control(run: pd.DataFrame, control: pd.DataFrame) -> np.ndarray:
    """Return the control run's value of every row of the run."""
    for name, table in (("run", run), ("control", control)):
        twice = table.duplicated(_KEYS)
        if twice.any():
            raise ValueError(f"{_name_row(table, twice)} occurs twice in the {name}'s outcomes")
        absent = ~np.isfinite(table["value"].to_numpy(float))
        if absent.any():
            raise ValueError(
                f"{_name_row(table, absent)} has no finite value in the {name}'s outcomes"
            )
    left, right = (pd.MultiIndex.from_frame(table[_KEYS]) for table in (run, control))
    places = right.get_indexer(left)
    if (places < 0).any():
        raise ValueError(f"{_name_row(run, places < 0)} is missing in the control's outcomes")
    if len(control) > len(run):
        raise ValueError(
            f"{_name_row(control, ~right.isin(left))} is missing in the run's outcomes"
        )
    return control["value"].to_numpy(float)[places]


def _name_row(table: pd.DataFrame, where: np.ndarray | pd.Series) -> str:
    item, outcome, condition = table.loc[np.asarray(where), _KEYS].iloc[0]
    return f"item {item!r} of {outcome}/{condition}"
