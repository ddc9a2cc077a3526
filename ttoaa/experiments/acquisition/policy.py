"""What a policy decides: which texts go into the next interval, from what the last one did.

Policies are plain values and pure functions; `Controlled` is one at work on the texts and probes of
an arm, a controller as the run knows it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gin
import numpy as np

from ttoaa.experiments.controllers import Measured

State = dict[str, Any]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Target:
    """A probability that rises with the steps of training: linearly from 0, as in the paper, or in
    its logarithm from `initial`, so that the climb from nothing is on the line too."""

    final: float = 0.08
    reached: float = 1.0
    """The fraction of training at which it is `final`; from there on it stays."""
    initial: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.final <= 1 or not 0 < self.reached <= 1:
            raise ValueError("Target.final and Target.reached must be above 0 and at most 1")
        if self.initial is not None and not 0 < self.initial <= 1:
            raise ValueError("Target.initial must be above 0 and at most 1, or None")

    def at(self, step: int, steps: int) -> float:
        done = min(1.0, step / (self.reached * steps))
        if self.initial is None:
            return self.final * done
        return float(self.initial ** (1 - done) * self.final**done)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a policy decides about: K topics, T texts, P probes."""

    text_topic: tuple[int, ...]
    """Of each text the topic that it tells, each of 0 .. K - 1 at least once."""
    text_tokens: tuple[int, ...]
    probe_topic: tuple[int, ...]
    """Of each probe the topic that it asks for; every topic is asked for."""
    every: int
    """Steps of an interval."""
    steps: int
    """Of training."""
    target: Target = dataclasses.field(default_factory=Target)

    @property
    def intervals(self) -> int:
        return -(-self.steps // self.every)

    @functools.cached_property
    def topics(self) -> int:
        return max(self.text_topic) + 1

    @functools.cached_property
    def pools(self) -> list[list[int]]:
        """The texts of each topic, in order."""
        pools: list[list[int]] = [[] for _ in range(self.topics)]
        for text, topic in enumerate(self.text_topic):
            pools[topic].append(text)
        return pools

    def goal(self, interval: int) -> float:
        """The target as interval `interval` begins."""
        return self.target.at(interval * self.every, self.steps)

    def by_topic(self, value_P: np.ndarray) -> np.ndarray:
        """float64[K]: the mean over each topic's probes."""
        sums = np.bincount(self.probe_topic, np.asarray(value_P, float), self.topics)
        return sums / np.bincount(self.probe_topic, minlength=self.topics)

    def next_texts(self, first: Sequence[int], count: Sequence[int]) -> list[int]:
        """The `count[k]` texts of each topic k after its first `first[k]`, in rotation, mixed: one
        of every topic, then the next."""
        taken = [
            (number, topic, pool[(first[topic] + number) % len(pool)])
            for topic, pool in enumerate(self.pools)
            for number in range(count[topic])
        ]
        return [text for _, _, text in sorted(taken)]


class Aim(NamedTuple):
    """What a policy that follows a target wanted of each of K topics in an interval."""

    rate_K: np.ndarray
    """Texts, before they are made whole; above 0, so that their logarithms can be compared."""
    at_least_K: np.ndarray
    """bool: the rate is the lowest that it allows,"""
    at_most_K: np.ndarray
    """or the highest. Either way it is not in control of the topic."""


class Policy(Protocol):
    """Decides from JSON-able state alone; the same inputs give the same decision, to the bit."""

    @property
    def name(self) -> str:
        """Of its arm."""
        ...

    def slots(self, setting: Setting) -> int:
        """The most texts that it may ask for in an interval."""
        ...

    def start(self, setting: Setting) -> State: ...

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        """(the texts of the interval that begins, the new state); log_p float64[P]."""
        ...

    def aim(self, topics: int, state: Mapping[str, Any]) -> Aim | None:
        """What it aimed at in the interval that it left this state for; None without a target."""
        ...


MEASURES = ("probability", "log_probability")


def measure(kind: str, log_p: np.ndarray) -> float:
    """The mean probability, or the probability of the mean log-probability: never the larger.

    A mean of probabilities is that of the few easiest probes; the other moves with all of them.
    """
    return float(np.mean(np.exp(log_p)) if kind == "probability" else np.exp(np.mean(log_p)))


@dataclasses.dataclass(frozen=True)
class Controlled:
    """A controller of the run (contract C6): a policy, its arm's texts and probes."""

    slots: str
    policy: Policy
    setting: Setting
    measured: Measured = dataclasses.field(repr=False, compare=False)
    texts: Sequence[np.ndarray] = dataclasses.field(repr=False, compare=False)

    @property
    def every(self) -> int:
        return self.setting.every

    def start(self) -> State:
        return self.policy.start(self.setting)

    def decide(
        self, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        return self.policy.decide(self.setting, state, interval, log_p)
