"""Estimates of arms, from the outcome tables of the run and its control run."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.acquisition import outcomes as o
from ttoaa.experiments.acquisition.contrasts import (
    Sign,
    above_never,
    held_out_halves,
    run_contrasts,
)
from ttoaa.experiments.acquisition.curves import (
    Curve,
    bootstrap_topics,
    by_topic,
    values_of,
)
from ttoaa.experiments.acquisition.injection_estimates import injection_estimates
from ttoaa.experiments.acquisition.injections import Injections
from ttoaa.experiments.acquisition.outcomes import log_rmse
from ttoaa.experiments.acquisition.policies import Never
from ttoaa.experiments.acquisition.policy import Policy
from ttoaa.statistics.bootstrap import (
    Estimate,
    estimate,
    paired_estimate,
    paired_estimates,
)
from ttoaa.statistics.survival import median_time

_PAIRED = (
    *(o.LIKELIHOOD, o.PROBABILITY, o.ACCURACY, o.TOPIC_RMSE, o.TRACKING, o.ACQUIRED, o.STEPS),
    *(o.EXPOSURES, o.TOKENS),
)


def arm_estimates(
    run: pd.DataFrame,
    control: pd.DataFrame,
    policies: Mapping[str, Policy],
    pairs: Sequence[tuple[str, str]],
    sign: Sign,
) -> list[Estimate]:
    """Return all estimates of a checkpoint.

    `policies` are those of the arms by name, `pairs` the arms of the contrasts within the run.
    """
    policies = {o.NEVER: Never(o.NEVER), **policies}
    both = [table[table["outcome"].isin(_PAIRED)] for table in (run, control)]
    found = paired_estimates(both[0], both[1], sign)
    found += above_never(run, control, policies, sign)
    found += held_out_halves(run, control)
    for arm in dict.fromkeys(condition for condition in run["condition"] if "@" not in condition):
        policy, curves = policies[arm], (Curve.read(run, arm), Curve.read(control, arm))
        if curves[0].steps:
            found += _target_errors(policy, curves, sign)
            found += _curve_estimates(policy, curves, sign)
        found += _rate_estimates(arm, run)
        if arm != o.NEVER:
            found += _to_acquire(policy, run)
            found += _since_acquired(policy, run, control, curves, sign)
        if isinstance(policy, Injections) and curves[0].steps:
            never = Curve.read(run, o.NEVER), Curve.read(control, o.NEVER)
            found += injection_estimates(policy, curves, never, sign)
    if any("@" in condition for condition in run["condition"]):
        found += run_contrasts(run, policies, pairs, sign)
    return found


def _target_errors(policy: Policy, curves: tuple[Curve, Curve], sign: Sign) -> list[Estimate]:
    """Estimate the error against the target by both measures, over topics.

    The bootstrap of the root mean square is centred on its logarithm: resampled topics have a
    noisier mean, which is further from the target.
    """
    run, control = curves
    arm, K, goal_I = policy.name, len(run.topics), run.goal_I
    parts = slice(None), o.second_half(goal_I)
    names = [o.RMSE, o.RMSE + o.LATE, o.MEAN_RMSE, o.MEAN_RMSE + o.LATE]
    signs = np.array([sign(name) for name in names])

    def off(curve: Curve, counts_RxK: np.ndarray) -> np.ndarray:
        values = curve.values(counts_RxK)
        kinds = [values["log_probability"], values["probability"]]
        return np.stack([log_rmse(v[:, part], goal_I[part]) for v in kinds for part in parts], 1)

    def statistic(counts_RxK: np.ndarray) -> np.ndarray:
        ours, theirs = off(run, counts_RxK), off(control, counts_RxK)
        return np.concatenate([np.log(ours), signs * (ours - theirs)], 1)

    groups, results = bootstrap_topics(policy.shared, K, statistic, "tracked", arm, centred=True)
    without = off(control, np.ones((1, K)))[0]
    found = []
    for k, name in enumerate(names):
        value, low, high = (np.array([np.exp(r[k]), r[k + len(names)]]) for r in results)
        if np.isfinite(value).all():  # undefined before the second interval
            found.append(estimate(name, arm, K, (value, low, high), float(without[k]), groups))
    return found


def _curve_estimates(policy: Policy, curves: tuple[Curve, Curve], sign: Sign) -> list[Estimate]:
    """Estimate the value at the start of every interval, over topics; count target and texts."""
    run, control = curves
    arm, K, direction = policy.name, len(run.topics), sign(o.VALUE)
    measure = getattr(policy, "measure", "log_probability")

    def statistic(counts_RxK: np.ndarray) -> np.ndarray:
        ours, theirs = (curve.values(counts_RxK)[measure] for curve in curves)
        return np.stack([ours, direction * (ours - theirs)], 1).reshape(len(counts_RxK), -1)

    groups, bounds = bootstrap_topics(policy.shared, K, statistic, "course", arm)
    # Probabilities and their differences.
    results = [np.clip(r.reshape(2, -1), [[0], [-1]], 1) for r in bounds]
    without = control.values(np.ones((1, K)))[measure][0]
    found = []
    for k, step in enumerate(run.steps):
        at, (value, low, high) = f"{arm}@{step}", (result[:, k] for result in results)
        found.append(estimate(o.VALUE, at, K, (value, low, high), float(without[k]), groups))
        found.append(_counted(o.TARGET, at, 1, run.goal_I[k], run.goal_I[k]))
        if arm != o.NEVER:
            found.append(_counted(o.TEXTS, at, K, run.texts_I[k], control.texts_I[k]))
    return found


def _counted(outcome: str, condition: str, n: int, value: float, control: float) -> Estimate:
    """Return an estimate of a number that was counted or set, so it has no interval."""
    nan, value, control = math.nan, float(value), float(control)
    return Estimate(outcome, condition, n, value, nan, nan, control, value - control, nan, nan)


def _rate_estimates(arm: str, run: pd.DataFrame) -> list[Estimate]:
    """Return the mean rate statistics of an arm; they are counted and have no interval."""
    values = {name: values_of(run, name, arm) for name in o.AIMS}
    return [
        _uncompared(name, arm, len(value), float(value.mean()))
        for name, value in values.items()
        if len(value)
    ]


def _uncompared(
    outcome: str,
    arm: str,
    n: int,
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    groups: int | None = None,
) -> Estimate:
    """Return an estimate without a control: the control run decides and inserts nothing."""
    none = math.nan
    return Estimate(outcome, arm, n, value, low, high, none, none, none, none, groups)


def _to_acquire(policy: Policy, run: pd.DataFrame) -> list[Estimate]:
    """Estimate the median exposures and tokens until acquisition (Kaplan-Meier).

    If the rate follows the probes, topics that are slow to learn get more exposures in the same
    time. Censoring is then informative: do not compare this median with that of a fixed rate.
    """
    arm = policy.name
    seen = values_of(run, o.ACQUIRED, arm).to_numpy() > 0
    names = [name + o.TO_ACQUIRE for name in (o.EXPOSURES, o.TOKENS)]
    medians = [median_time(values_of(run, name, arm).to_numpy(), seen) for name in names]
    if policy.shared:
        medians = [(value, math.nan, math.nan) for value, _, _ in medians]
    groups = 1 if policy.shared else None
    return [
        _uncompared(name, arm, len(seen), *median, groups)
        for name, median in zip(names, medians, strict=True)
    ]


def _since_acquired(
    policy: Policy,
    run: pd.DataFrame,
    control: pd.DataFrame,
    curves: tuple[Curve, Curve],
    sign: Sign,
) -> list[Estimate]:
    """Estimate the change in log-probability of acquired topics since, less the control's change.

    Acquisition selects a high measurement among noisy ones, so a small loss is regression to the
    mean, not forgetting.
    """
    arm = policy.name
    acquired = values_of(run, o.ACQUIRED, arm)
    topics = list(acquired.index[acquired > 0])
    if not topics:
        return []
    at = values_of(run, o.STEPS, arm)

    def change(table: pd.DataFrame, curve: Curve) -> np.ndarray:
        then_IxK, now = curve.by_topic(), by_topic(table, o.LIKELIHOOD, arm)
        places = [(curve.steps.index(int(at[t])), curve.topics.index(t)) for t in topics]
        return now[topics].to_numpy() - np.array([then_IxK[place] for place in places])

    ours, theirs = change(run, curves[0]), change(control, curves[1])
    return [
        paired_estimate(o.RETENTION, arm, ours, theirs, sign(o.RETENTION), _groups(policy, topics))
    ]


def _groups(policy: Policy, topics: Sequence[str]) -> np.ndarray:
    """Return the group of each topic: itself, or the arm if its topics share their decisions."""
    return np.array([policy.name] * len(topics) if policy.shared else topics)
