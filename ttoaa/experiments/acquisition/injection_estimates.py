"""Estimates of effectivity and retainability, the measures of the predecessor's schedule.

Insertions of other arms teach the form of the texts, which raises topics of every arm. The contrast
with the control run contains that; the contrast with topics that are never inserted, measured in
the same run at the same steps, does not (`..._above_never`).
"""

import math

import numpy as np

from ttoaa.experiments.acquisition import outcomes as o
from ttoaa.experiments.acquisition.contrasts import Sign
from ttoaa.experiments.acquisition.curves import Curve
from ttoaa.experiments.acquisition.injections import Injections, Lag, effectivity
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    difference_in_differences,
    estimate,
    paired_estimate,
)


def injection_estimates(
    policy: Injections,
    curves: tuple[Curve, Curve],
    never: tuple[Curve, Curve],
    sign: Sign,
) -> list[Estimate]:
    """Estimate both measures for the injections so far, from the curves of run and control run.

    `never` has the curves of topics that are never inserted; they may be empty.
    """
    run_IxK, control_IxK = (curve.by_topic() for curve in curves)
    injected = np.flatnonzero(curves[0].texts_I).tolist()
    ours_K, theirs_K = (effectivity(x, injected, policy.gap) for x in (run_IxK, control_IxK))
    if not np.isfinite(ours_K).all():
        return []
    name, arm = o.EFFECTIVITY, policy.name
    found = [paired_estimate(name, arm, ours_K, theirs_K, sign(name))]
    if never[0].topics:
        name += o.ABOVE
        no_J, without_J = (effectivity(x.by_topic(), injected, policy.gap) for x in never)
        found.append(
            difference_in_differences(name, arm, ours_K, theirs_K, no_J, without_J, sign(name))
        )
    every = curves[0].steps[1] - curves[0].steps[0]
    for lag in policy.lags if len(injected) == policy.count else ():
        condition = f"{arm}/lag-{lag * every}"
        places = Lag.of(run_IxK, injected, policy.gap, lag)
        if places is None:
            continue
        if places.changes(run_IxK)[0].sum() > 0:
            found.append(_retainability(condition, places, run_IxK, control_IxK, sign))
        if never[0].topics:
            found += _above_never(condition, places, run_IxK, never[0].by_topic())
    return found


def _retainability(
    condition: str, places: Lag, run_IxK: np.ndarray, control_IxK: np.ndarray, sign: Sign
) -> Estimate:
    """Estimate the share that is left, and the drift in the control run as such a share.

    It is a ratio of sums over topics, so topics that gained nothing need not be removed as
    outliers, as the predecessor does.
    """
    gain_K, left_K = places.changes(run_IxK)
    drift_K = places.changes(control_IxK)[1]
    K, direction = len(gain_K), sign(o.RETAINABILITY)

    def statistic(counts_RxK: np.ndarray) -> np.ndarray:
        gain, left, drift = (counts_RxK @ each_K for each_K in (gain_K, left_K, drift_K))
        return np.stack([left / gain, direction * (left - drift) / gain], 1)

    results = bootstrap([K], statistic, o.RETAINABILITY, condition)
    without = float(drift_K.sum() / gain_K.sum())
    return estimate(o.RETAINABILITY, condition, K, results, without)


def _above_never(
    condition: str, places: Lag, run_IxK: np.ndarray, never_IxJ: np.ndarray
) -> list[Estimate]:
    """Estimate retainability of log-probabilities relative to the mean of topics never inserted.

    None if the topics did not gain on them.
    """
    name, sizes = o.RETAINABILITY + o.ABOVE, [run_IxK.shape[1], never_IxJ.shape[1]]
    gain_K, left_K = places.changes(run_IxK)

    def changes(counts_RxK: np.ndarray, counts_RxJ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        never_RxI = counts_RxJ @ never_IxJ.T / counts_RxJ.sum(1, keepdims=True)
        before_Rx1 = never_RxI[:, [places.first]]
        gain_RxK = gain_K - (never_RxI[:, places.peak_K] - before_Rx1)
        left_RxK = left_K - (never_RxI[:, places.later_K] - before_Rx1)
        return (counts_RxK * gain_RxK).sum(1), (counts_RxK * left_RxK).sum(1)

    def statistic(counts_RxK: np.ndarray, counts_RxJ: np.ndarray) -> np.ndarray:
        gain, left = changes(counts_RxK, counts_RxJ)
        return np.stack([left / gain], 1)

    gain, _ = changes(*(np.ones((1, n)) for n in sizes))
    if gain[0] <= 0:
        return []
    value, low, high = (float(each[0]) for each in bootstrap(sizes, statistic, name, condition))
    nan = math.nan
    return [Estimate(name, condition, sum(sizes), value, low, high, nan, nan, nan, nan)]
