"""The interface of policies, which choose the texts of the next interval from the probes.

A policy is a frozen dataclass with pure methods. `Controlled` makes a controller of the run from a
policy and the texts and probes of its arm.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import gin
import numpy as np

from ttoaa.config_fields import PositiveShare, config_class
from ttoaa.experiments.controllers import Measured

State = dict[str, Any]


@gin.configurable
@config_class
class Target:
    """A target probability that rises during training.

    It rises linearly from 0, as in the paper, or, with `initial`, log-linearly from there; then the
    early part of training can be on target too.
    """

    final: PositiveShare = 0.08
    reached: PositiveShare = 1.0
    """The fraction of training after which the target is constant at `final`."""
    initial: PositiveShare | None = None

    def at(self, step: int, steps: int) -> float:
        """Return the target probability at `step` of `steps`."""
        done = min(1.0, step / (self.reached * steps))
        if self.initial is None:
            return self.final * done
        return float(self.initial ** (1 - done) * self.final**done)


@dataclasses.dataclass(frozen=True)
class Setting:
    """The constants of an arm: K topics, T texts, P probes."""

    text_topic: tuple[int, ...]
    """int[T]: the topic of each text; each of 0 .. K - 1 occurs."""
    text_tokens: tuple[int, ...]
    """int[T]: the length of each text."""
    probe_topic: tuple[int, ...]
    """int[P]: the topic of each probe; every topic has one."""
    every: int
    """Steps of an interval."""
    steps: int
    """Steps of training."""
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
        """Return the target at the start of `interval`."""
        return self.target.at(interval * self.every, self.steps)

    def by_topic(self, value_P: np.ndarray) -> np.ndarray:
        """Return float64[K]: the mean over the probes of each topic."""
        sums = np.bincount(self.probe_topic, np.asarray(value_P, float), self.topics)
        return sums / np.bincount(self.probe_topic, minlength=self.topics)

    def next_texts(self, first: Sequence[int], count: Sequence[int]) -> list[int]:
        """Return the `count[k]` texts of each topic k after its first `first[k]`, in rotation.

        The topics alternate: one text of each, then the next of each.
        """
        taken = [
            (number, topic, pool[(first[topic] + number) % len(pool)])
            for topic, pool in enumerate(self.pools)
            for number in range(count[topic])
        ]
        return [text for _, _, text in sorted(taken)]


class Aim(NamedTuple):
    """The rates that a policy with a target set for K topics in one interval."""

    rate_K: np.ndarray
    """Texts in the interval before rounding; above 0, so that logarithms exist."""
    at_least_K: np.ndarray
    """bool: the rate is at its lower limit, so the policy does not control the topic."""
    at_most_K: np.ndarray
    """bool: the rate is at its upper limit, so the policy does not control the topic."""


class Policy(Protocol):
    """A decision rule; the same inputs must give the same decision, to the bit.

    The state is JSON: the run stores it and passes it to the next decision. A policy that follows a
    target has a field `target: Target | None`, the set-point of its arm.
    """

    shared: ClassVar[bool]
    """Whether one decision covers all topics. They then count as one group, without intervals."""

    @property
    def name(self) -> str:
        """The name of its arm."""
        ...

    def slots(self, setting: Setting) -> int:
        """Return the most texts that the policy may choose in an interval."""
        ...

    def start(self, setting: Setting) -> State:
        """Return the state before the first decision."""
        ...

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        """Return (the texts of this interval, the new state) from log_p, float64[P] in nats."""
        ...

    def aim(self, topics: int, state: Mapping[str, Any]) -> Aim | None:
        """Return the rates of the interval whose decision left `state`; None without a target."""
        ...


MEASURES = ("probability", "log_probability")


def measure(kind: str, log_p: np.ndarray) -> float:
    """Return the arithmetic ('probability') or geometric ('log_probability') mean of probabilities.

    The easiest probes dominate the arithmetic mean; all probes move the geometric mean.
    """
    return float(np.mean(np.exp(log_p)) if kind == "probability" else np.exp(np.mean(log_p)))


@dataclasses.dataclass(frozen=True)
class Controlled:
    """A controller of the run (contract C6): a policy with the texts and probes of its arm."""

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
