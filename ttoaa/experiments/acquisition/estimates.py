"""Estimates of arms under control, from the tables of `outcomes` of the run and its control run."""

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


def estimates(
    run: pd.DataFrame, control: pd.DataFrame, measures: Mapping[str, str], sign: Sign
) -> list[Estimate]:
    """All that is told of a checkpoint; `measures` says what each arm's policy holds on target."""
    both = [table[table["outcome"].isin(_PAIRED)] for table in (run, control)]
    found = paired_estimates(both[0], both[1], sign)
    found += _above_never(run, control, sign)
    for arm in dict.fromkeys(condition for condition in run["condition"] if "@" not in condition):
        curves = Curve.read(run, arm), Curve.read(control, arm)
        if curves[0].steps:
            found += _off_target(arm, curves, sign)
            found += _course(arm, curves, measures.get(arm, "log_probability"), sign)
        found += _aims(arm, run)
        if arm != o.NEVER:
            found += _to_acquire(arm, run)
            found += _since_acquired(arm, run, control, curves, sign)
    return found


@dataclasses.dataclass(frozen=True)
class Curve:
    """An arm of one table: I intervals, K topics, P probes."""

    steps: list[int]
    topics: list[str]
    probe_topic: np.ndarray
    """int64[P]"""
    log_p_IxP: np.ndarray
    goal_I: np.ndarray
    texts_I: np.ndarray

    @classmethod
    def read(cls, table: pd.DataFrame, arm: str) -> "Curve":
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
        """By measure, [R, I]: the value of the arm with each topic counted so often."""
        weight_RxP = counts_RxK[:, self.probe_topic]
        weight_RxP = weight_RxP / weight_RxP.sum(1, keepdims=True)
        return {
            "log_probability": np.exp(weight_RxP @ self.log_p_IxP.T),
            "probability": weight_RxP @ np.exp(self.log_p_IxP.T),
        }


def _off_target(arm: str, curves: tuple[Curve, Curve], sign: Sign) -> list[Estimate]:
    """How far off target, by both measures; over topics.

    Bounds of a root mean square are centred on its logarithm: resampled topics make a noisier mean,
    which lies further off.
    """
    run, control = curves
    K, goal_I = len(run.topics), run.goal_I
    late = len(run.steps) // 2  # a start from nothing dominates the whole
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
        if np.isfinite(value).all():  # before the second interval nothing was off target
            found.append(estimate(name, arm, K, (value, low, high), float(without[k])))
    return found


def _course(arm: str, curves: tuple[Curve, Curve], measure: str, sign: Sign) -> list[Estimate]:
    """The value as every interval began, by the arm's measure and over topics; target and texts."""
    run, control = curves
    K, direction = len(run.topics), sign(o.VALUE)

    def statistic(counts_RxK: np.ndarray) -> np.ndarray:
        ours, theirs = (curve.values(counts_RxK)[measure] for curve in curves)
        return np.stack([ours, direction * (ours - theirs)], 1).reshape(len(counts_RxK), -1)

    results = [r.reshape(2, -1) for r in bootstrap([K], statistic, "course", arm)]
    without = control.values(np.ones((1, K)))[measure][0]
    found = []
    for k, step in enumerate(run.steps):
        at, (value, low, high) = f"{arm}@{step}", (result[:, k] for result in results)
        found.append(estimate(o.VALUE, at, K, (value, low, high), float(without[k])))
        found.append(_exact(o.TARGET, at, 1, run.goal_I[k], run.goal_I[k]))
        if arm != o.NEVER:
            found.append(_exact(o.TEXTS, at, K, run.texts_I[k], control.texts_I[k]))
    return found


def _exact(outcome: str, condition: str, n: int, value: float, control: float) -> Estimate:
    """A number that was counted, or set: it has no interval."""
    nan, value, control = math.nan, float(value), float(control)
    return Estimate(outcome, condition, n, value, nan, nan, control, value - control, nan, nan)


def _values(table: pd.DataFrame, outcome: str, condition: str) -> pd.Series:
    rows = table[(table["outcome"] == outcome) & (table["condition"] == condition)]
    return rows.set_index("item")["value"].astype(float).sort_index()


def _above_never(run: pd.DataFrame, control: pd.DataFrame, sign: Sign) -> list[Estimate]:
    """What probes of an arm gained beyond those of entities that are never inserted."""
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


def _aims(arm: str, run: pd.DataFrame) -> list[Estimate]:
    """Counted, so without an interval."""
    values = {name: _values(run, name, arm) for name in o.AIMS}
    return [
        _alone(name, arm, len(value), float(value.mean()))
        for name, value in values.items()
        if len(value)
    ]


def _alone(
    outcome: str, arm: str, n: int, value: float, low: float = math.nan, high: float = math.nan
) -> Estimate:
    """Of what the control run has not: nothing is decided or inserted there."""
    return Estimate(outcome, arm, n, value, low, high, *[math.nan] * 4)


def _to_acquire(arm: str, run: pd.DataFrame) -> list[Estimate]:
    """Median exposures and tokens until acquired (Kaplan-Meier).

    Where a rate follows what is known, topics that are slow to learn get more exposures in the same
    time: those not acquired yet then stand at more of them than those that are like them in all
    else, and such a median is not one of a fixed rate.
    """
    seen = _values(run, o.ACQUIRED, arm).to_numpy() > 0
    names = [name + o.TO_ACQUIRE for name in (o.EXPOSURES, o.TOKENS)]
    until = [_values(run, name, arm).to_numpy() for name in names]
    return [
        _alone(name, arm, len(seen), *median_time(time, seen))
        for name, time in zip(names, until, strict=True)
    ]


def _since_acquired(
    arm: str, run: pd.DataFrame, control: pd.DataFrame, curves: tuple[Curve, Curve], sign: Sign
) -> list[Estimate]:
    """How the log-probability of acquired topics has changed since, against the control's change.

    The measurement that said so was a high one among noisy ones, so a little of any loss is not
    forgetting.
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
