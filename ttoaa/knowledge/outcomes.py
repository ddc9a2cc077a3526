"""What is measured of arms under control: probes at a checkpoint, and the course so far."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ttoaa.experiments.base import Scorer
from ttoaa.knowledge.policy import Aim, Policy, Target
from ttoaa.knowledge.tracking import Course, log_rmse, turns
from ttoaa.knowledge.until import Criterion
from ttoaa.scoring.sampling import Sampling

LIKELIHOOD, PROBABILITY, ACCURACY = "log_probability", "probability", "accuracy"
ABOVE = "_above_never"
RMSE, MEAN_RMSE, TOPIC_RMSE = "log_rmse", "log_rmse_of_mean_probability", "topic_log_rmse"
LATE = "_second_half"
"""Of the intervals so far, by their number."""
ACQUIRED, STEPS, RETENTION = "acquired", "steps_to_acquire", "change_since_acquired"
EXPOSURES, TOKENS = "exposures", "tokens"
TO_ACQUIRE = "_to_acquire"
IDLE, CLAMPED, TURNS, MOVED = "at_least", "at_most", "turns", "log_rate_moved"
AIMS = (IDLE, CLAMPED, TURNS, MOVED)
"""Of a policy that follows a target, the mean over topics: the share of intervals at its lowest and
highest rate, in which the rate turned, and how far its logarithm moved to each, 0 to the first. A
rule of one whole n moves in whole texts, one of rates moves smoothly, whatever is then inserted."""
UNCOMPARED = (*AIMS, EXPOSURES + TO_ACQUIRE, TOKENS + TO_ACQUIRE)
"""Nothing of the control run corresponds to them."""
VALUE, TARGET, TEXTS = "value_at", "target_at", "texts_at"
CURVES = (VALUE, TARGET, TEXTS)
SIGNS: Mapping[str, int] = {
    **{name + suffix: 1 for name in (LIKELIHOOD, ACCURACY) for suffix in ("", ABOVE)},
    **{name: 1 for name in (PROBABILITY, ACQUIRED, VALUE, TARGET, TEXTS)},
    **{name + suffix: 1 for name in (EXPOSURES, TOKENS) for suffix in ("", TO_ACQUIRE)},
    **{name + suffix: -1 for name in (RMSE, MEAN_RMSE) for suffix in ("", LATE)},
    **{name: -1 for name in (TOPIC_RMSE, STEPS, RETENTION, *AIMS)},
}
NEVER = "never"
"""The arm of what is never inserted."""
PROBE_AT = "log_probability_at"
"""In tables alone: of every probe as each interval began."""


def probed(model: Scorer, new_tokens: int) -> pd.DataFrame:
    """Of every probe at this checkpoint the log-probability and probability of its target, and
    whether the target is in a greedy continuation of its context."""
    probes = model.items[model.items["repetitions"] == 0]
    eos = model.tokenizer.eos_id
    asked = [np.asarray(tokens, np.int32) for tokens in probes["tokens"]]
    scores = model.log_likelihood(list(zip(asked, probes["start"].astype(int), strict=True)))
    log_p = np.array([float(np.sum(score, dtype=float)) for score in scores])
    contexts = model.tokenizer.encode_batch(list(probes["context"]))
    sampling = Sampling(max_new_tokens=new_tokens, stop=((eos,),))
    told = model.generate([np.insert(context, 0, eos) for context in contexts], sampling)
    right = [
        target.casefold() in model.tokenizer.decode(new).casefold()
        for target, new in zip(probes["target"], told, strict=True)
    ]
    values = {LIKELIHOOD: log_p, PROBABILITY: np.exp(log_p), ACCURACY: np.array(right, float)}
    return pd.concat(
        [_table(probes["id"], probes["condition"], name, value) for name, value in values.items()]
    )


def courses(
    model: Scorer,
    policies: Mapping[str, Policy],
    criteria: Mapping[str, Criterion],
    target: Target,
) -> pd.DataFrame:
    """What came of every arm in the intervals before this checkpoint.

    Items are topics (how well each tracked, when it was acquired, what it took, how its rate
    moved), and for the curves probes and topics at the step of an interval.
    """
    tables: list[pd.DataFrame] = []
    decisions = model.decisions[model.decisions["step"] < model.step]
    for slots in model.items[model.items["repetitions"] > 0].itertuples():
        mine = decisions[decisions["slots"] == slots.id]
        probes = model.items[
            (model.items["condition"] == slots.id) & (model.items["repetitions"] == 0)
        ]
        topic_of = probes["topic"].astype(int).tolist()
        course = Course.read(mine, list(slots.text_topic), list(slots.text_tokens), topic_of)
        goal_I = np.array([target.at(step, int(slots.steps)) for step in course.step_I.tolist()])
        criterion, topics = criteria[slots.id], list(slots.topics)
        tables += _of_topics(slots.id, topics, course, goal_I, criterion, model.step)
        states = mine.sort_values("interval")["state"]
        aims = [policies[slots.id].aim(len(topics), s) for s in states if s is not None]
        tables += _of_aims(slots.id, topics, [aim for aim in aims if aim is not None])
        tables += _curves(slots.id, topics, list(probes["id"]), course, goal_I)
    return pd.concat(tables, ignore_index=True)


def _table(items: object, condition: object, outcome: str, value: object) -> pd.DataFrame:
    columns = {"item": items, "condition": condition, "outcome": outcome, "value": value}
    return pd.DataFrame({k: v if isinstance(v, str) else np.asarray(v) for k, v in columns.items()})


def _of_topics(
    arm: str, topics: list[str], course: Course, goal_I: np.ndarray, criterion: Criterion, end: int
) -> Iterator[pd.DataFrame]:
    if np.any(goal_I > 0):
        yield _table(topics, arm, TOPIC_RMSE, log_rmse(np.exp(course.by_topic().T), goal_I))
    found = course.acquired(criterion, end)
    yield _table(topics, arm, ACQUIRED, found["acquired"].astype(float))
    yield _table(topics, arm, STEPS, found["steps"])
    if arm == NEVER:
        return
    for name, inserted in ((EXPOSURES, course.texts_IxK), (TOKENS, course.tokens_IxK)):
        yield _table(topics, arm, name, inserted.sum(0))
        yield _table(topics, arm, name + TO_ACQUIRE, found[name])


def _of_aims(arm: str, topics: list[str], aims: Sequence[Aim]) -> Iterator[pd.DataFrame]:
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


def _curves(
    arm: str, topics: list[str], probes: list[str], course: Course, goal_I: np.ndarray
) -> Iterator[pd.DataFrame]:
    for k, step in enumerate(course.step_I.tolist()):
        at = f"{arm}@{step}"
        yield _table(probes, at, PROBE_AT, course.log_p_IxP[k])
        yield _table(topics, at, TEXTS, course.texts_IxK[k])
        yield _table([at], at, TARGET, goal_I[k : k + 1])
