"""Estimates of arms, from the outcome tables of the run and its control run."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ttoaa.experiments.acquisition import outcomes as o
from ttoaa.experiments.acquisition.outcomes import log_rmse
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    difference_in_differences,
    estimate,
    paired_estimate,
    paired_estimates,
)
from ttoaa.statistics.survival import median_time

Sign = Callable[[str], int]
_PAIRED = (
    *(o.LIKELIHOOD, o.PROBABILITY, o.ACCURACY, o.TOPIC_RMSE, o.ACQUIRED, o.STEPS),
    *(o.EXPOSURES, o.TOKENS),
)


def arm_estimates(
    run: pd.DataFrame, control: pd.DataFrame, measures: Mapping[str, str], sign: Sign
) -> list[Estimate]:
    """Return all estimates of a checkpoint; `measures`: arm -> what its policy keeps on target."""
    both = [table[table["outcome"].isin(_PAIRED)] for table in (run, control)]
    found = paired_estimates(both[0], both[1], sign)
    found += _above_never(run, control, sign)
    for arm in dict.fromkeys(condition for condition in run["condition"] if "@" not in condition):
        curves = Curve.read(run, arm), Curve.read(control, arm)
        if curves[0].steps:
            found += _target_errors(arm, curves, sign)
            found += _curve_estimates(arm, curves, measures.get(arm, "log_probability"), sign)
        found += _rate_estimates(arm, run)
        if arm != o.NEVER:
            found += _to_acquire(arm, run)
            found += _since_acquired(arm, run, control, curves, sign)
    return found


@dataclasses.dataclass(frozen=True)
class Curve:
    """One arm in one outcome table: I intervals, K topics, P probes."""

    steps: list[int]
    topics: list[str]
    probe_topic: np.ndarray
    """int64[P]: the place of each probe's topic in `topics`."""
    log_p_IxP: np.ndarray
    """float64, nats, at the start of each interval."""
    goal_I: np.ndarray
    texts_I: np.ndarray

    @classmethod
    def read(cls, table: pd.DataFrame, arm: str) -> "Curve":
        """Collect the rows of `arm` from an outcome table."""
        rows = table[table["condition"].str.startswith(f"{arm}@")]
        rows = rows.assign(step=rows["condition"].str.removeprefix(f"{arm}@").astype(int))
        probes = rows[rows["outcome"] == o.PROBE_AT].pivot(
            index="step", columns="item", values="value"
        )
        of = [str(item).rpartition("/")[0] for item in probes.columns]
        topics = list(dict.fromkeys(of))
        by_step = {
            name: rows[rows["outcome"] == name].groupby("step")["value"].sum()
            for name in (o.TARGET, o.TEXTS)
        }
        return cls(
            steps=[int(step) for step in probes.index],
            topics=topics,
            probe_topic=np.array([topics.index(topic) for topic in of], np.int64),
            log_p_IxP=probes.to_numpy(float),
            goal_I=by_step[o.TARGET].to_numpy(float),
            texts_I=by_step[o.TEXTS].to_numpy(float),
        )

    def values(self, counts_RxK: np.ndarray) -> dict[str, np.ndarray]:
        """Return measure -> float64[R, I]: the arm's value, each topic weighted by its count."""
        weight_RxP = counts_RxK[:, self.probe_topic]
        weight_RxP = weight_RxP / weight_RxP.sum(1, keepdims=True)
        return {
            "log_probability": np.exp(weight_RxP @ self.log_p_IxP.T),
            "probability": weight_RxP @ np.exp(self.log_p_IxP.T),
        }


def _target_errors(arm: str, curves: tuple[Curve, Curve], sign: Sign) -> list[Estimate]:
    """Estimate the error against the target by both measures, over topics.

    The bootstrap of the root mean square is centred on its logarithm: resampled topics have a
    noisier mean, which is further from the target.
    """
    run, control = curves
    K, goal_I = len(run.topics), run.goal_I
    late = len(run.steps) // 2  # early training dominates the error of the whole
    names = [o.RMSE, o.RMSE + o.LATE, o.MEAN_RMSE, o.MEAN_RMSE + o.LATE]
    signs = np.array([sign(name) for name in names])

    def off(curve: Curve, counts_RxK: np.ndarray) -> np.ndarray:
        values = curve.values(counts_RxK)
        kinds = [values["log_probability"], values["probability"]]
        return np.stack([log_rmse(v[:, k:], goal_I[k:]) for v in kinds for k in (0, late)], 1)

    def statistic(counts_RxK: np.ndarray) -> np.ndarray:
        ours, theirs = off(run, counts_RxK), off(control, counts_RxK)
        return np.concatenate([np.log(ours), signs * (ours - theirs)], 1)

    results = bootstrap([K], statistic, "tracked", arm, centred=True)
    without = off(control, np.ones((1, K)))[0]
    found = []
    for k, name in enumerate(names):
        value, low, high = (np.array([np.exp(r[k]), r[k + len(names)]]) for r in results)
        if np.isfinite(value).all():  # undefined before the second interval
            found.append(estimate(name, arm, K, (value, low, high), float(without[k])))
    return found


def _curve_estimates(
    arm: str, curves: tuple[Curve, Curve], measure: str, sign: Sign
) -> list[Estimate]:
    """Estimate the value at the start of every interval, over topics; count target and texts."""
    run, control = curves
    K, direction = len(run.topics), sign(o.VALUE)

    def statistic(counts_RxK: np.ndarray) -> np.ndarray:
        ours, theirs = (curve.values(counts_RxK)[measure] for curve in curves)
        return np.stack([ours, direction * (ours - theirs)], 1).reshape(len(counts_RxK), -1)

    results = [
        np.clip(r.reshape(2, -1), [[0], [-1]], 1)  # probabilities and their differences
        for r in bootstrap([K], statistic, "course", arm)
    ]
    without = control.values(np.ones((1, K)))[measure][0]
    found = []
    for k, step in enumerate(run.steps):
        at, (value, low, high) = f"{arm}@{step}", (result[:, k] for result in results)
        found.append(estimate(o.VALUE, at, K, (value, low, high), float(without[k])))
        found.append(_counted(o.TARGET, at, 1, run.goal_I[k], run.goal_I[k]))
        if arm != o.NEVER:
            found.append(_counted(o.TEXTS, at, K, run.texts_I[k], control.texts_I[k]))
    return found


def _counted(outcome: str, condition: str, n: int, value: float, control: float) -> Estimate:
    """Return an estimate of a number that was counted or set, so it has no interval."""
    nan, value, control = math.nan, float(value), float(control)
    return Estimate(outcome, condition, n, value, nan, nan, control, value - control, nan, nan)


def _values(table: pd.DataFrame, outcome: str, condition: str) -> pd.Series:
    rows = table[(table["outcome"] == outcome) & (table["condition"] == condition)]
    return rows.set_index("item")["value"].astype(float).sort_index()


def _above_never(run: pd.DataFrame, control: pd.DataFrame, sign: Sign) -> list[Estimate]:
    """Estimate the gain of each arm's probes over that of entities that are never inserted."""
    found = []
    for outcome in (o.LIKELIHOOD, o.ACCURACY):
        arms = dict.fromkeys(run.loc[run["outcome"] == outcome, "condition"])
        never, without = (_values(t, outcome, o.NEVER).to_numpy() for t in (run, control))
        name = outcome + o.ABOVE
        for arm in [arm for arm in arms if arm != o.NEVER and len(never)]:
            ours, theirs = (_values(t, outcome, arm).to_numpy() for t in (run, control))
            found.append(
                difference_in_differences(name, arm, ours, theirs, never, without, sign(name))
            )
    return found


def _rate_estimates(arm: str, run: pd.DataFrame) -> list[Estimate]:
    """Return the mean rate statistics of an arm; they are counted and have no interval."""
    values = {name: _values(run, name, arm) for name in o.AIMS}
    return [
        _uncompared(name, arm, len(value), float(value.mean()))
        for name, value in values.items()
        if len(value)
    ]


def _uncompared(
    outcome: str, arm: str, n: int, value: float, low: float = math.nan, high: float = math.nan
) -> Estimate:
    """Return an estimate without a control: the control run decides and inserts nothing."""
    none = math.nan
    return Estimate(outcome, arm, n, value, low, high, none, none, none, none)


def _to_acquire(arm: str, run: pd.DataFrame) -> list[Estimate]:
    """Estimate the median exposures and tokens until acquisition (Kaplan-Meier).

    If the rate follows the probes, topics that are slow to learn get more exposures in the same
    time. Censoring is then informative: do not compare this median with that of a fixed rate.
    """
    seen = _values(run, o.ACQUIRED, arm).to_numpy() > 0
    names = [name + o.TO_ACQUIRE for name in (o.EXPOSURES, o.TOKENS)]
    until = [_values(run, name, arm).to_numpy() for name in names]
    return [
        _uncompared(name, arm, len(seen), *median_time(time, seen))
        for name, time in zip(names, until, strict=True)
    ]


def _since_acquired(
    arm: str, run: pd.DataFrame, control: pd.DataFrame, curves: tuple[Curve, Curve], sign: Sign
) -> list[Estimate]:
    """Estimate the change in log-probability of acquired topics since, less the control's change.

    Acquisition selects a high measurement among noisy ones, so a small loss is regression to the
    mean, not forgetting.
    """
    acquired = _values(run, o.ACQUIRED, arm)
    topics = list(acquired.index[acquired > 0])
    if not topics:
        return []
    at = _values(run, o.STEPS, arm)

    def change(table: pd.DataFrame, curve: Curve) -> np.ndarray:
        now = _values(table, o.LIKELIHOOD, arm)
        now = now.groupby([str(item).rpartition("/")[0] for item in now.index]).mean()
        then = [
            curve.log_p_IxP[curve.steps.index(int(at[topic]))][
                curve.probe_topic == curve.topics.index(topic)
            ].mean()
            for topic in topics
        ]
        return now[topics].to_numpy() - np.array(then)

    ours, theirs = change(run, curves[0]), change(control, curves[1])
    return [paired_estimate(o.RETENTION, arm, ours, theirs, sign(o.RETENTION))]
