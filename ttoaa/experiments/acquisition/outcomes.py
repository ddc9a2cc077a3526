"""Outcomes of arms: probes at a checkpoint, and the trajectory so far from the log of decisions."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import pandas as pd

from ttoaa.experiments.acquisition.policies import Criterion
from ttoaa.experiments.acquisition.policy import Aim, Policy, Target
from ttoaa.experiments.scorer import Scorer
from ttoaa.scoring.requests import Sampling, sum_log_probs

_FACTOR = math.log(1.25)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One arm over I intervals, with K topics and P probes."""

    step_I: np.ndarray
    log_p_IxP: np.ndarray
    """float64, nats, at the start of each interval."""
    texts_IxK: np.ndarray
    """int64: inserted texts of each topic; 0 in a control run."""
    tokens_IxK: np.ndarray
    """int64: their tokens."""
    probe_topic: tuple[int, ...]

    @classmethod
    def read(
        cls,
        decisions: pd.DataFrame,
        text_topic: Sequence[int],
        text_tokens: Sequence[int],
        probe_topic: Sequence[int],
    ) -> "Trajectory":
        """Build a trajectory from the decisions of one controller, in any order."""
        rows = decisions.sort_values("interval")
        K = max(text_topic) + 1
        shape = (len(rows), len(probe_topic))
        topic, size = np.array(text_topic), np.array(text_tokens)
        texts, tokens = np.zeros((2, len(rows), K), np.int64)
        for k, chosen in enumerate(rows["chosen"]):
            if chosen is not None and len(chosen):
                inserted = np.asarray(chosen, np.int64)
                np.add.at(texts[k], topic[inserted], 1)
                np.add.at(tokens[k], topic[inserted], size[inserted])
        return cls(
            step_I=rows["step"].to_numpy(np.int64),
            log_p_IxP=np.array(rows["log_p"].tolist(), float).reshape(shape),
            texts_IxK=texts,
            tokens_IxK=tokens,
            probe_topic=tuple(probe_topic),
        )

    def by_topic(self) -> np.ndarray:
        """Return float64[I, K]: the mean log-probability of the probes of each topic."""
        K = self.texts_IxK.shape[1]
        one_PxK = np.eye(K)[list(self.probe_topic)]
        return self.log_p_IxP @ (one_PxK / one_PxK.sum(0))

    def acquired(self, criterion: Criterion, end: int) -> dict[str, np.ndarray]:
        """Return [K] each: `acquired`, and the `steps`, `exposures` and `tokens` until then.

        For a topic that was not acquired they are censored: until step `end`, and all insertions.
        """
        met = criterion.first_met(self.by_topic())
        before_IxK = np.arange(len(self.step_I))[:, None] < np.where(met < 0, len(self.step_I), met)
        steps = np.append(self.step_I, end)[met]  # -1, never acquired, takes the last
        return {
            "acquired": met >= 0,
            "steps": steps,
            "exposures": (self.texts_IxK * before_IxK).sum(0),
            "tokens": (self.tokens_IxK * before_IxK).sum(0),
        }


def log_rmse(value: np.ndarray, goal_I: np.ndarray) -> np.ndarray:
    """Return [...]: the root mean square of log(value / goal) over the last axis of [..., I], nats.

    Intervals with a goal of 0, such as the first, do not count; NaN if there are no others.
    """
    counts = goal_I > 0
    if not counts.any():
        return np.full(np.shape(value)[:-1], math.nan)
    off = np.log(np.asarray(value)[..., counts]) - np.log(goal_I[counts])
    return np.sqrt(np.mean(off**2, axis=-1))


def second_half(values_I: np.ndarray) -> slice:
    """Return the second half of the intervals: early training dominates the error of the whole."""
    return slice(len(values_I) // 2, None)


def turns(rate_I: np.ndarray) -> np.ndarray:
    """Return bool[I]: where a rate has reversed, by a factor of 1.25 from its last extreme.

    Smaller changes, such as those of rounding, do not count.
    """
    found = np.zeros(len(rate_I), bool)
    way, low, high = 0, math.inf, -math.inf
    for k, value in enumerate(np.log(rate_I).tolist()):
        low, high = min(low, value), max(high, value)
        if way <= 0 and value - low >= _FACTOR:
            found[k], way, high = way < 0, 1, value
        elif way >= 0 and high - value >= _FACTOR:
            found[k], way, low = way > 0, -1, value
    return found


LIKELIHOOD, PROBABILITY, ACCURACY = "log_probability", "probability", "accuracy"
ABOVE = "_above_never"
RMSE, MEAN_RMSE, TOPIC_RMSE = "log_rmse", "log_rmse_of_mean_probability", "topic_log_rmse"
LATE = "_second_half"
"""Suffix: over the second half of the intervals so far."""
TRACKING = "tracking_error"
"""The log-RMSE of a topic against the target, over the second half of the intervals so far."""
AGAINST_ARM, AGAINST_TARGET = "tracking_error_against_arm", "tracking_error_against_target"
"""Contrasts within one run (see `contrasts`)."""
EFFECTIVITY, RETAINABILITY = "effectivity", "retainability"
HALVES = "log_probability_of_half_the_held_out"
"""The placebo: two random halves of the topics that are never inserted."""
ACQUIRED, STEPS, RETENTION = "acquired", "steps_to_acquire", "change_since_acquired"
EXPOSURES, TOKENS = "exposures", "tokens"
TO_ACQUIRE = "_to_acquire"
IDLE, CLAMPED, TURNS, MOVED = "at_least", "at_most", "turns", "log_rate_moved"
AIMS = (IDLE, CLAMPED, TURNS, MOVED)
"""Means over topics for a policy with a target: the share of intervals at the lowest rate, at the
highest rate, and in which the rate turned, and the mean change of the log-rate per interval."""
UNCOMPARED = (*AIMS, EXPOSURES + TO_ACQUIRE, TOKENS + TO_ACQUIRE, RETAINABILITY + ABOVE)
"""Outcomes without a counterpart in the control run."""
VALUE, TARGET, TEXTS = "value_at", "target_at", "texts_at"
CURVES = (VALUE, TARGET, TEXTS)
SIGNS: Mapping[str, int] = {
    **{name + suffix: 1 for name in (LIKELIHOOD, ACCURACY) for suffix in ("", ABOVE)},
    **{name: 1 for name in (PROBABILITY, ACQUIRED, VALUE, TARGET, TEXTS, HALVES)},
    **{name + suffix: 1 for name in (EXPOSURES, TOKENS) for suffix in ("", TO_ACQUIRE)},
    **{name + suffix: -1 for name in (RMSE, MEAN_RMSE) for suffix in ("", LATE)},
    **{name + suffix: 1 for name in (EFFECTIVITY, RETAINABILITY) for suffix in ("", ABOVE)},
    **{name: -1 for name in (TRACKING, AGAINST_ARM, AGAINST_TARGET)},
    **{name: -1 for name in (TOPIC_RMSE, STEPS, RETENTION, *AIMS)},
}
NEVER = "never"
"""The arm of entities that are never inserted."""
PROBE_AT = "log_probability_at"
"""In outcome tables only: every probe at the start of each interval."""


def score_probes(model: Scorer, new_tokens: int) -> pd.DataFrame:
    """Score every probe: log-probability (nats) and probability of its target, and accuracy.

    A probe is right if a greedy continuation of its context contains the target, ignoring case.
    """
    probes = model.items[model.items["repetitions"] == 0]
    eos = model.tokenizer.eos_id
    rows = [np.asarray(tokens, np.int32) for tokens in probes["tokens"]]
    scores = model.log_likelihood(list(zip(rows, probes["start"].astype(int), strict=True)))
    log_p = np.array(sum_log_probs(scores))
    contexts = model.tokenizer.encode_batch(list(probes["context"]))
    sampling = Sampling(max_new_tokens=new_tokens, stop=((eos,),))
    generated = model.generate([np.insert(context, 0, eos) for context in contexts], sampling)
    right = [
        target.casefold() in model.tokenizer.decode(new).casefold()
        for target, new in zip(probes["target"], generated, strict=True)
    ]
    values = {LIKELIHOOD: log_p, PROBABILITY: np.exp(log_p), ACCURACY: np.array(right, float)}
    return pd.concat(
        [_table(probes["id"], probes["condition"], name, value) for name, value in values.items()]
    )


def trajectory_outcomes(
    model: Scorer,
    policies: Mapping[str, Policy],
    criteria: Mapping[str, Criterion],
    targets: Mapping[str, Target],
) -> pd.DataFrame:
    """Return the outcomes of every arm over the intervals before this checkpoint.

    Items are topics (error against the target, acquisition, exposures, rates); for the curves they
    are probes and topics at the start of each interval.
    """
    tables: list[pd.DataFrame] = []
    decisions = model.decisions[model.decisions["step"] < model.step]
    for slots in model.items[model.items["repetitions"] > 0].itertuples():
        mine = decisions[decisions["slots"] == slots.id]
        probes = model.items[
            (model.items["condition"] == slots.id) & (model.items["repetitions"] == 0)
        ]
        topic_of = probes["topic"].astype(int).tolist()
        trajectory = Trajectory.read(
            mine, list(slots.text_topic), list(slots.text_tokens), topic_of
        )
        target, steps = targets[slots.id], trajectory.step_I.tolist()
        goal_I = np.array([target.at(step, int(slots.steps)) for step in steps])
        criterion, topics = criteria[slots.id], list(slots.topics)
        tables += _topic_tables(slots.id, topics, trajectory, goal_I, criterion, model.step)
        states = mine.sort_values("interval")["state"]
        aims = [policies[slots.id].aim(len(topics), s) for s in states if s is not None]
        tables += _rate_tables(slots.id, topics, [aim for aim in aims if aim is not None])
        tables += _curve_tables(slots.id, topics, list(probes["id"]), trajectory, goal_I)
    return pd.concat(tables, ignore_index=True)


def add_groups(table: pd.DataFrame, shared: Set[str]) -> pd.DataFrame:
    """Add the column `group`: the topic of each probe, or the arm where one decision is shared."""
    is_probe = table["outcome"].isin((LIKELIHOOD, PROBABILITY, ACCURACY, PROBE_AT))
    topic = table["item"].where(~is_probe, table["item"].str.rpartition("/")[0])
    arm = table["condition"].str.partition("@")[0]
    return table.assign(group=topic.where(~arm.isin(shared), arm))


def _table(items: object, condition: object, outcome: str, value: object) -> pd.DataFrame:
    columns = {"item": items, "condition": condition, "outcome": outcome, "value": value}
    return pd.DataFrame({k: v if isinstance(v, str) else np.asarray(v) for k, v in columns.items()})


def _topic_tables(
    arm: str,
    topics: list[str],
    trajectory: Trajectory,
    goal_I: np.ndarray,
    criterion: Criterion,
    end: int,
) -> Iterator[pd.DataFrame]:
    late = second_half(goal_I)
    for name, part in ((TOPIC_RMSE, slice(None)), (TRACKING, late)):
        if np.any(goal_I[part] > 0):
            value_KxI = np.exp(trajectory.by_topic().T)
            yield _table(topics, arm, name, log_rmse(value_KxI[:, part], goal_I[part]))
    found = trajectory.acquired(criterion, end)
    yield _table(topics, arm, ACQUIRED, found["acquired"].astype(float))
    yield _table(topics, arm, STEPS, found["steps"])
    if arm == NEVER:
        return
    for name, inserted in ((EXPOSURES, trajectory.texts_IxK), (TOKENS, trajectory.tokens_IxK)):
        yield _table(topics, arm, name, inserted.sum(0))
        yield _table(topics, arm, name + TO_ACQUIRE, found[name])


def _rate_tables(arm: str, topics: list[str], aims: Sequence[Aim]) -> Iterator[pd.DataFrame]:
    if not aims:
        return
    rate_IxK = np.stack([aim.rate_K for aim in aims])
    moves = np.abs(np.diff(np.log(rate_IxK), axis=0, prepend=np.log(rate_IxK[:1])))
    values = {
        IDLE: np.stack([aim.at_least_K for aim in aims]),
        CLAMPED: np.stack([aim.at_most_K for aim in aims]),
        TURNS: np.stack([turns(rate_I) for rate_I in rate_IxK.T], 1),
        MOVED: moves,
    }
    for name, value_IxK in values.items():
        yield _table(topics, arm, name, value_IxK.mean(0))


def _curve_tables(
    arm: str, topics: list[str], probes: list[str], trajectory: Trajectory, goal_I: np.ndarray
) -> Iterator[pd.DataFrame]:
    for k, step in enumerate(trajectory.step_I.tolist()):
        at = f"{arm}@{step}"
        yield _table(probes, at, PROBE_AT, trajectory.log_p_IxP[k])
        yield _table(topics, at, TEXTS, trajectory.texts_IxK[k])
        yield _table([at], at, TARGET, goal_I[k : k + 1])
