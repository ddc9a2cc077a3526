"""Curves of arms over training from outcome tables, and resampling over their topics."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.acquisition import outcomes as o
from ttoaa.statistics.bootstrap import bootstrap, count_groups


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
        of = [topic_of(item) for item in probes.columns]
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

    def by_topic(self) -> np.ndarray:
        """Return float64[I, K]: the mean log-probability of the probes of each topic."""
        one_PxK = np.eye(len(self.topics))[self.probe_topic]
        return self.log_p_IxP @ (one_PxK / one_PxK.sum(0))

    def tracking_errors(self, goal_I: np.ndarray) -> np.ndarray:
        """Return float64[K]: the error of each topic against `goal_I`, in the second half, nats."""
        late = o.second_half(goal_I)
        return o.log_rmse(np.exp(self.by_topic().T[:, late]), goal_I[late])


def topic_of(probe: object) -> str:
    """Return the topic of a probe's id."""
    return str(probe).rpartition("/")[0]


def by_topic(table: pd.DataFrame, outcome: str, arm: str) -> pd.Series:
    """Return the mean of an outcome over the probes of each topic, by topic."""
    values = values_of(table, outcome, arm)
    return values.groupby([topic_of(item) for item in values.index]).mean()


def values_of(table: pd.DataFrame, outcome: str, condition: str) -> pd.Series:
    """Return the values of an outcome, by item."""
    rows = table[(table["outcome"] == outcome) & (table["condition"] == condition)]
    return rows.set_index("item")["value"].astype(float).sort_index()


def groups_of(shared: Sequence[bool], sizes: Sequence[int]) -> list[np.ndarray] | None:
    """Return the groups of the topics of some arms, for `bootstrap`: None if each is its own.

    An arm whose topics share their decisions is one group.
    """
    if not any(shared):
        return None
    return [np.arange(n) * (not one) for one, n in zip(shared, sizes, strict=True)]


def bootstrap_topics(
    shared: bool, K: int, statistic: Callable[..., np.ndarray], *key: object, centred: bool = False
) -> tuple[int | None, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (`Estimate.groups`, `bootstrap` over the topics of an arm)."""
    groups = groups_of([shared], [K])
    results = bootstrap([K], statistic, *key, centred=centred, groups=groups)
    return count_groups([K], groups), results
