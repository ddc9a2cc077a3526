"""A learner made up: what it knows rises with exposures, saturates and fades; reading is noisy."""

import json
from typing import NamedTuple

import numpy as np

from ttoaa.experiments.acquisition.outcomes import log_rmse, turns
from ttoaa.experiments.acquisition.policy import Setting, Target, measure


def setting(topics=16, per=40, steps=1000, every=10, final=0.2, probes=1):
    """`per` texts of each topic, one of every topic first."""
    return Setting(
        text_topic=tuple(np.tile(np.arange(topics), per).tolist()),
        text_tokens=(20,) * (topics * per),
        probe_topic=tuple(np.repeat(np.arange(topics), probes).tolist()),
        every=every,
        steps=steps,
        target=Target(final),
    )


def simulate(policy, setting, seed, gain=0.25, decay=0.8, noise=0.3, resumed=False):
    """(log_p_IxK, texts_IxK): memory of each topic fades by `decay` an interval and grows by its
    own gain a text; log p = floor * exp(-memory), between the floor of about -14 nats and 0.

    With `resumed` the state goes through JSON before every decision, as in a run that is killed.
    """
    rng = np.random.default_rng(seed)
    K = setting.topics
    gain_K = gain * np.exp(0.5 * rng.standard_normal(K))
    floor_K = -14 + 1.5 * rng.standard_normal(K)
    memory_K = np.zeros(K)
    state = policy.start(setting)
    log_p, texts = [], []
    for interval in range(setting.intervals):
        read = floor_K * np.exp(-memory_K) + noise * rng.standard_normal(K)
        log_p.append(np.minimum(read, -1e-3))
        if resumed:
            state = json.loads(json.dumps(state, allow_nan=False))
        chosen, state = policy.decide(setting, state, interval, log_p[-1])
        assert len(chosen) <= policy.slots(setting)
        topics = np.array(setting.text_topic)[np.array(chosen, np.int64)]
        texts.append(np.bincount(topics, minlength=K))
        memory_K = decay * memory_K + gain_K * texts[-1]
    return np.array(log_p), np.array(texts)


class Tracked(NamedTuple):
    rmse: float
    """Of log(value / target)."""
    late_rmse: float
    """The same without the first 30 intervals."""
    turns: int
    """Intervals in which n turned; an n of 0 counts as 1/2."""
    idle: float
    """Share of intervals at n = 0."""


def tracked(policy, setting, seed, kind="log_probability", **plant):
    log_p, texts = simulate(policy, setting, seed, **plant)
    value = np.array([measure(kind, each) for each in log_p])
    goal = np.array([setting.goal(k) for k in range(setting.intervals)])
    n = texts.sum(1)
    late = slice(30, None)
    off = float(log_rmse(value, goal)), float(log_rmse(value[late], goal[late]))
    return Tracked(*off, int(turns(np.maximum(n, 0.5)).sum()), float(np.mean(n == 0)))
