"""Detect Gaussian noise on embeddings in gradients: the statistic, and what follows from its mean.

The statistic of a row is x = <g, u> / |g|, for u its noise and g the gradient of its log-likelihood
with respect to its embeddings.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy  # its submodules load when they are first used

from ttoaa.statistics.bootstrap import Estimate, bootstrap, count_groups, estimate

CLOSED_FORM, COMBINED_P, NEEDED = "detected_closed_form", "combined_p", "sequences_needed"
SPREAD = "spread"
"""Outcomes that follow from the mean and the spread of the statistics of all rows."""

FALSE_POSITIVES = 0.01
CRITICAL = float(scipy.stats.norm.isf(FALSE_POSITIVES))
"""The statistic above which a row counts as watermarked."""
_POWER = 0.9
_MOST = 1e6
"""Upper bound of `sequences_needed`, and its value where the mean statistic is not positive."""


def watermark_statistic(gradients: Sequence[np.ndarray], noise_NxLxD: np.ndarray) -> np.ndarray:
    """Return x of each row, float64[n]: <g, u> / |g|, for g the gradients of log-likelihoods.

    The sign is that of the paper's figures: the gradient of a loss would take a minus. Without a
    watermark, x is N(0, 1) exactly; it is 0 where a gradient vanishes.
    """
    return np.array(
        [
            np.vdot(g.astype(np.float64), u) / max(np.linalg.norm(g.astype(np.float64)), 1e-300)
            for g, u in zip(gradients, noise_NxLxD, strict=True)
        ]
    )


def sequences_needed(mean: float) -> float:
    """Return the rows that a one-sided test at 1% needs for power 0.9 at this mean statistic.

    (z(0.99) + z(0.9))^2 / mean^2 = (3.608 / mean)^2; 1e6 at most, and where the mean is not
    positive.
    """
    reach = CRITICAL + float(scipy.stats.norm.ppf(_POWER))
    return min(_MOST, (reach / mean) ** 2) if mean > 0 else _MOST


DERIVED: Mapping[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    CLOSED_FORM: lambda mean, spread, n: scipy.stats.norm.sf(CRITICAL - mean),
    COMBINED_P: lambda mean, spread, n: scipy.stats.norm.sf(math.sqrt(n) * mean),
    NEEDED: lambda mean, spread, n: np.vectorize(sequences_needed)(mean),
    SPREAD: lambda mean, spread, n: spread,
}
"""Functions of the mean and the standard deviation of n statistics, arrays of any shape."""


def derived_estimate(
    outcome: str, mean: Estimate, x_Nx2: np.ndarray, group_N: np.ndarray, sign: int
) -> Estimate:
    """Estimate a function of the statistics of the run and of the control run, [n, 2].

    A function of the mean alone is monotone: the bounds of the mean give those of its value, and
    those of a difference are kept within what is possible.
    """
    n, of_moments = len(x_Nx2), DERIVED[outcome]

    def statistic(counts_RxN: np.ndarray) -> np.ndarray:
        total_Rx1 = counts_RxN.sum(1, keepdims=True)
        mean_Rx2 = counts_RxN @ x_Nx2 / total_Rx1
        square_Rx2 = counts_RxN @ x_Nx2**2 / total_Rx1
        spread_Rx2 = np.sqrt(np.maximum(square_Rx2 - mean_Rx2**2, 0))
        run_R, control_R = of_moments(mean_Rx2, spread_Rx2, n).T
        return np.stack([run_R, sign * (run_R - control_R)], 1)

    groups = [group_N] if len(np.unique(group_N)) < n else None
    results = bootstrap([n], statistic, "watermark", outcome, mean.condition, groups=groups)
    control = float(statistic(np.ones((1, n)))[0] @ [1, -sign])
    number = count_groups([n], groups)
    made = estimate(outcome, mean.condition, n, results, control, number)
    if outcome == SPREAD:
        return made
    bounds = np.array([mean.ci_low, mean.ci_high])
    low, high = np.sort(of_moments(bounds, np.zeros(2), n)) if np.isfinite(bounds).all() else bounds
    reach = _MOST if outcome == NEEDED else 1.0
    differences = np.clip([made.difference_ci_low, made.difference_ci_high], -reach, reach)
    return dataclasses.replace(
        made,
        ci_low=float(low),
        ci_high=float(high),
        difference_ci_low=float(differences[0]),
        difference_ci_high=float(differences[1]),
    )
