"""Family-wise permutation tests of several outcomes, by the largest |z| (Westfall and Young 1993).

Outcomes that share items depend on each other. Permuting whole items keeps this dependence, and the
largest |z| of each permutation is what the most extreme outcome reaches by chance: sharper than
Bonferroni, which ignores it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ttoaa.statistics.bootstrap import keyed_rng

PERMUTATIONS = 9999
_CHUNK = 4_000_000  # elements of a block of signs or labels
_FLAT = 1e-12
"""Of the mean square: a smaller variance is rounding. It keeps |z| finite, and ties ties."""


@dataclasses.dataclass(frozen=True)
class MaxZ:
    z_K: np.ndarray
    """Mean over its standard error, per outcome."""
    p_K: np.ndarray
    """Two-sided, family-wise: below alpha for any true null with probability at most alpha."""


def paired_max_z(
    differences_NxK: np.ndarray, *key: object, permutations: int = PERMUTATIONS
) -> MaxZ:
    """Test n items' differences (run - control) in K outcomes; nan: the item has no such outcome.

    Under the null hypothesis an item's differences together are as likely with the opposite sign.
    All 2^n signs are tried if they are few enough (n up to 14 by default), so p has no random error
    and is at least 2/2^n; otherwise `key` seeds a sample of them. Raises ValueError for an outcome
    with fewer than two items, or infinite values.
    """
    x_NxK = _check_table(differences_NxK)
    there_NxK, x_NxK = ~np.isnan(x_NxK), np.nan_to_num(x_NxK)
    n_K, squares_K = there_NxK.sum(0), (x_NxK**2).sum(0)

    def z(signs_RxN: np.ndarray) -> np.ndarray:
        return _ratio(*_mean(signs_RxN @ x_NxK, squares_K, n_K), squares_K / n_K)

    observed_K = z(np.ones((1, len(x_NxK))))[0]
    return MaxZ(observed_K, _step_down(observed_K, map(z, _signs(len(x_NxK), permutations, key))))


def two_sample_max_z(
    a_NxK: np.ndarray, b_MxK: np.ndarray, *key: object, permutations: int = PERMUTATIONS
) -> MaxZ:
    """Test group a against group b (seeds with and without an experiment, say) in K outcomes.

    Under the null hypothesis an item, with all its outcomes, is as likely in either group; then the
    test is exact. z is Welch's, so an unequal spread alone is no finding in large groups either.
    Raises ValueError for an outcome with fewer than two items in a group, infinite values, or
    groups with different numbers of outcomes.
    """
    a_NxK, b_MxK = _check_table(a_NxK), _check_table(b_MxK)
    if a_NxK.shape[1] != b_MxK.shape[1]:
        raise ValueError(f"group a has {a_NxK.shape[1]} outcomes, group b {b_MxK.shape[1]}")
    if np.isnan(a_NxK).any() or np.isnan(b_MxK).any():
        raise ValueError("two groups are compared in outcomes that every item has: leave out nan")
    x_NxK = np.concatenate([a_NxK, b_MxK])
    x_NxK = x_NxK - x_NxK.mean(0)
    n, n_a = len(x_NxK), len(a_NxK)
    whole_K, square_K = x_NxK.sum(0), (x_NxK**2).sum(0)

    def z(in_a_RxN: np.ndarray) -> np.ndarray:
        sum_RxK, squares_RxK = in_a_RxN @ x_NxK, in_a_RxN @ x_NxK**2
        mean_a, variance_a = _mean(sum_RxK, squares_RxK, n_a)
        mean_b, variance_b = _mean(whole_K - sum_RxK, square_K - squares_RxK, n - n_a)
        return _ratio(mean_a - mean_b, variance_a + variance_b, square_K / n)

    labels = (np.arange(n) < n_a).astype(float)
    rng = keyed_rng("two-sample max z", *key)
    observed_K = z(labels[None])[0]
    blocks = (
        z(rng.permuted(np.tile(labels, (rows, 1)), axis=1)) for rows in _blocks(n, permutations)
    )
    return MaxZ(observed_K, _step_down(observed_K, blocks))


def _check_table(values_NxK: np.ndarray) -> np.ndarray:
    x_NxK = np.asarray(values_NxK, float)
    if x_NxK.ndim != 2 or not x_NxK.shape[1] or np.isinf(x_NxK).any():
        raise ValueError("a permutation test needs a table of finite numbers, items by outcomes")
    if ((~np.isnan(x_NxK)).sum(0) < 2).any():
        raise ValueError("a permutation test needs at least two items in every outcome")
    return x_NxK


def _signs(n: int, permutations: int, key: tuple[object, ...]) -> Iterator[np.ndarray]:
    """Yield blocks [R, n] of the signs of n items, other than all +1 (or -1, with the same |z|)."""
    others = 2 ** (n - 1) - 1
    rng, start = keyed_rng("paired max z", *key), 1
    for rows in _blocks(n, min(others, permutations)):
        if others <= permutations:
            numbers_Rx1 = np.arange(start, start + rows)[:, None]
            yield 1.0 - 2 * (numbers_Rx1 >> np.arange(n) & 1)
        else:
            yield rng.integers(0, 2, (rows, n)) * 2.0 - 1
        start += rows


def _blocks(n: int, permutations: int) -> Iterator[int]:
    block = max(1, _CHUNK // n)
    for start in range(0, permutations, block):
        yield min(block, permutations - start)


def _mean(
    sum_RxK: np.ndarray, squares: np.ndarray, n: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the square of its standard error."""
    mean_RxK = sum_RxK / n
    return mean_RxK, (squares / n - mean_RxK**2) / (n - 1)


def _ratio(mean_RxK: np.ndarray, variance_RxK: np.ndarray, square_K: np.ndarray) -> np.ndarray:
    """Return z; 0 where an outcome is 0 throughout."""
    floor_K = np.where(square_K > 0, _FLAT * square_K, 1)
    return mean_RxK / np.sqrt(np.maximum(variance_RxK, floor_K))


def _step_down(observed_K: np.ndarray, blocks: Iterator[np.ndarray]) -> np.ndarray:
    """Compare each outcome with the largest |z| among those that are no more extreme.

    The observed data count as one of the permutations, so p is never 0 and the test is exact.
    """
    order = np.argsort(-np.abs(observed_K))
    # A permutation equal to the data must count, whatever the last bits of its sums.
    bar_K = np.abs(observed_K)[order] * (1 - 1e-9)
    reached_K, total = np.ones(len(order)), 1
    for z_RxK in blocks:
        largest = np.maximum.accumulate(np.abs(z_RxK)[:, order[::-1]], axis=1)[:, ::-1]
        reached_K += (largest >= bar_K).sum(0)
        total += len(z_RxK)
    p_K = np.empty(len(order))
    p_K[order] = np.maximum.accumulate(reached_K / total)
    return p_K
