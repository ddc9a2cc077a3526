"""Policies that choose the texts of each interval.

`Doubling` is the paper's controller (arXiv 2509.23383, Algorithm 1), `Proportional` a
proportional-integral (PI) controller of each topic's rate. `FixedRate` and `Never` are baselines
without a target. `UntilAcquired` inserts "until the model acquires a particular piece of knowledge"
(the paper's abstract). The schedule of the paper's predecessor is in `injections.py`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np

from ttoaa.config_fields import (
    AtLeast,
    AtMost,
    Below,
    Count,
    Name,
    OneOf,
    PositiveInt,
    Share,
    config_class,
)
from ttoaa.experiments.acquisition.policy import MEASURES, Aim, Setting, State, Target, measure

Gain = Annotated[float, AtLeast(0), AtMost(1000)]
Rate = Annotated[float, AtLeast(1e-9), AtMost(1e9)]
"""Texts per interval."""


@gin.configurable
@config_class
class Doubling:
    """The paper's controller: n texts per interval, taken in rotation over all topics.

    At each interval but the first, n is halved (rounded down) if the value is above the band around
    the target and doubled if it is below. The change is then clipped to that of the phase, and n to
    `least` .. `most`. All constants are the paper's except `initial`, which it does not state.
    """

    name: Name = "doubling"
    initial: Count = 1
    band: Annotated[float, AtLeast(0), Below(1)] = 0.05
    """Half-width of the band, as a fraction of the target."""
    limits: Sequence[tuple[Share, PositiveInt]] = ((0.19, 256), (0.59, 64))
    """(fraction of training, largest change of n in an interval that starts after it)."""
    least: Count = 1
    """At 0 the controller cannot recover from n = 0, whose double is 0."""
    most: PositiveInt = 8192
    measure: Annotated[str, OneOf(MEASURES)] = "probability"
    """The value to keep on target: 'probability' or 'log_probability' (see `policy.measure`)."""
    target: Target | None = None
    """The arm's set-point; None: `Acquisition.target`."""

    shared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.least <= self.initial <= self.most:
            raise ValueError("Doubling needs least <= initial <= most")
        starts = [fraction for fraction, _ in self.limits]
        if starts != sorted(starts):
            raise ValueError(f"Doubling.limits must have ascending fractions, not {starts}")

    def slots(self, setting: Setting) -> int:
        return self.most

    def start(self, setting: Setting) -> State:
        return {"n": self.initial, "next": 0}

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        n, first, texts = state["n"], state["next"], len(setting.text_topic)
        if interval > 0:
            value = measure(self.measure, log_p)
            n = self._next_n(n, value, setting.goal(interval), interval * setting.every, setting)
        n = min(max(n, self.least), self.most)
        return [(first + k) % texts for k in range(n)], {"n": n, "next": (first + n) % texts}

    def aim(self, topics: int, state: Mapping[str, Any]) -> Aim:
        """Report n / topics as the rate of each topic; an n of 0 counts as 1/2."""
        n = state["n"]
        return Aim(
            rate_K=np.full(topics, max(n, 0.5) / topics),
            at_least_K=np.full(topics, n <= self.least),
            at_most_K=np.full(topics, n >= self.most),
        )

    def _next_n(self, n: int, value: float, goal: float, step: int, setting: Setting) -> int:
        before = n
        if value > (1 + self.band) * goal:
            n = n // 2
        elif value < (1 - self.band) * goal:
            n = 2 * n
        limits = [limit for begin, limit in self.limits if step > begin * setting.steps]
        if limits:
            n = min(max(n, before - limits[-1]), before + limits[-1])
        return n


_ROUNDING = 1e-9


@gin.configurable
@config_class
class Proportional:
    """A PI controller of the log-rate of each topic; a rate is in texts per interval.

    With e the log target less the smoothed mean log-probability of the topic's probes, the log-rate
    changes by proportional * (e - previous e) + integral * e, clipped to `largest_change`. A rate
    stays within `least` and `most_each`, the sum within `most`; clipped parts are discarded (no
    wind-up). Fractions of a text are carried over, so rates below one text per interval hold on
    average.

    Gains follow Skogestad (2003) for a first-order lag with a delay. Near the target a unit of
    log-rate moves log p by D nats in the long run, with a time constant of T intervals and a delay
    of one. A loop as slow as the delay has integral = 1 / (2 D) and proportional = T / (2 D).
    The defaults are for D = 3.3 and T = 2: if log p saturates towards 0 as exp(-rate), D is about
    3.3 at p = 0.1. Far below the target D is larger, but there the rate only rises.
    """

    name: Name = "controlled"
    proportional: Gain = 0.3
    integral: Gain = 0.15
    smoothing: Annotated[float, AtLeast(0), Below(1)] = 0.3
    """Weight of the past in the running mean of the log-probability, in [0, 1)."""
    initial: Rate = 1.0
    """The first rate of a topic."""
    least: Rate = 0.05
    """The lowest rate of a topic; above 0, so that the rate can recover."""
    most_each: Rate = 512.0
    """The highest rate of a topic."""
    most: PositiveInt = 8192
    """The most texts of all topics in an interval."""
    largest_change: Annotated[float, AtLeast(1e-6), AtMost(100)] = math.log(4)
    """The largest change of a log-rate in an interval."""
    target: Target | None = None
    """The arm's set-point; None: `Acquisition.target`."""

    shared: ClassVar[bool] = False
    """Every topic has a rate of its own; only the limit `most` couples them while it binds."""

    def __post_init__(self) -> None:
        if not self.least <= self.initial <= self.most_each:
            raise ValueError("Proportional needs least <= initial <= most_each")

    def slots(self, setting: Setting) -> int:
        return self.most

    def start(self, setting: Setting) -> State:
        each = setting.topics
        return {
            "log_rate": [math.log(self.initial)] * each,
            "smoothed": None,
            "error": None,
            "carry": [
                topic / each for topic in range(each)
            ],  # staggered, or all would be due at once
            "next": [0] * each,
        }

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        smoothed, error = setting.by_topic(log_p), None
        if state["smoothed"] is not None:
            past = np.array(state["smoothed"])
            smoothed = self.smoothing * past + (1 - self.smoothing) * smoothed
        log_rate = np.array(state["log_rate"])
        if interval > 0:
            error = math.log(setting.goal(interval)) - smoothed
            last = error if state["error"] is None else np.array(state["error"])
            change = self.proportional * (error - last) + self.integral * error
            log_rate = log_rate + np.clip(change, -self.largest_change, self.largest_change)
        log_rate = self._clip(log_rate)
        due = np.array(state["carry"]) + np.exp(log_rate)
        count = self._round_down(due)
        chosen = setting.next_texts(state["next"], count.tolist())
        sizes = np.array([len(pool) for pool in setting.pools])
        return chosen, {
            "log_rate": log_rate.tolist(),
            "smoothed": smoothed.tolist(),
            "error": None if error is None else error.tolist(),
            "carry": (due - count).tolist(),
            "next": ((np.array(state["next"]) + count) % sizes).tolist(),
        }

    def aim(self, topics: int, state: Mapping[str, Any]) -> Aim:
        rate_K = np.exp(state["log_rate"])
        full = rate_K.sum() >= self.most * (1 - _ROUNDING)
        return Aim(
            rate_K=rate_K,
            at_least_K=~full & (rate_K <= self.least * (1 + _ROUNDING)),
            at_most_K=full | (rate_K >= self.most_each * (1 - _ROUNDING)),
        )

    def _clip(self, log_rate: np.ndarray) -> np.ndarray:
        log_rate = np.clip(log_rate, math.log(self.least), math.log(self.most_each))
        over = math.log(np.exp(log_rate).sum() / self.most)
        return log_rate - over if over > 0 else log_rate

    def _round_down(self, due: np.ndarray) -> np.ndarray:
        """Return int64[K]: the whole texts that are due, at most `most` together."""
        count = np.floor(due).astype(np.int64)
        while count.sum() > self.most:
            count[np.argmax(count)] -= 1
        return count


@gin.configurable
@config_class
class FixedRate:
    """A baseline that spreads `tokens` tokens evenly over training and ignores the probes.

    With as many tokens as a controlled arm used (in another seed, to avoid tuning on the outcome),
    it measures the benefit of control.
    """

    tokens: PositiveInt
    """Tokens of all insertions together, rounded down to whole texts."""
    name: Name = "fixed"
    against: Name | None = "controlled"
    """The arm whose tokens these are: both are judged by the target of that arm. None: judged by
    `Acquisition.target`."""

    shared: ClassVar[bool] = False

    def slots(self, setting: Setting) -> int:
        before = [
            self._texts_before(setting, interval) for interval in range(setting.intervals + 1)
        ]
        return max(1, int(np.diff(before).max()))

    def start(self, setting: Setting) -> State:
        return {}

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        first, last = (
            self._texts_before(setting, interval),
            self._texts_before(setting, interval + 1),
        )
        return [k % len(setting.text_topic) for k in range(first, last)], {}

    def aim(self, topics: int, state: Mapping[str, Any]) -> None:
        return None

    def _texts_before(self, setting: Setting, interval: int) -> int:
        """Return how many texts, in rotation, are inserted before an interval."""
        due = self.tokens * interval // setting.intervals
        total = np.cumsum(setting.text_tokens)
        rounds, rest = divmod(due, int(total[-1]))
        return rounds * len(total) + int(np.searchsorted(total, rest, "right"))


@gin.configurable
@config_class
class Never:
    """A baseline that inserts nothing; its probes are still measured."""

    name: Name = "never"

    shared: ClassVar[bool] = False

    def slots(self, setting: Setting) -> int:
        return 1

    def start(self, setting: Setting) -> State:
        return {}

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        return [], {}

    def aim(self, topics: int, state: Mapping[str, Any]) -> None:
        return None


@gin.configurable
@config_class
class Criterion:
    """A topic is acquired once its log-probability was at a threshold `times` times in a row."""

    log_probability: Annotated[float, AtMost(0)] = math.log(0.5)
    """The threshold in nats."""
    times: PositiveInt = 3
    """Consecutive measurements at or above the threshold."""

    def streak(self, before: Sequence[int], value_K: np.ndarray) -> np.ndarray:
        """Return int64[K]: consecutive measurements of each topic at or above the threshold."""
        return np.where(value_K >= self.log_probability, np.array(before, np.int64) + 1, 0)

    def first_met(self, value_IxK: np.ndarray) -> np.ndarray:
        """Return int64[K]: the measurement at which each topic was acquired, -1 for never."""
        met = np.full(value_IxK.shape[1], -1)
        streak = np.zeros(value_IxK.shape[1], np.int64)
        for number, value_K in enumerate(value_IxK):
            streak = self.streak(streak.tolist(), value_K)
            met[(met < 0) & (streak >= self.times)] = number
        return met


@gin.configurable
@config_class
class UntilAcquired:
    """Insert every topic at the same rate until it is acquired, then stop for good.

    The state records the exposures of each topic and the step at which it was acquired.
    """

    name: Name = "until"
    rate: PositiveInt = 1
    """Texts of a topic per interval."""
    criterion: Criterion = dataclasses.field(default_factory=Criterion)

    shared: ClassVar[bool] = False

    def slots(self, setting: Setting) -> int:
        return self.rate * setting.topics

    def start(self, setting: Setting) -> State:
        each = setting.topics
        return {"streak": [0] * each, "exposures": [0] * each, "acquired": [None] * each}

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        streak = self.criterion.streak(state["streak"], setting.by_topic(log_p)).tolist()
        acquired = [
            interval * setting.every if at is None and run >= self.criterion.times else at
            for at, run in zip(state["acquired"], streak, strict=True)
        ]
        count = [self.rate if at is None else 0 for at in acquired]
        chosen = setting.next_texts(state["exposures"], count)
        exposures = [had + more for had, more in zip(state["exposures"], count, strict=True)]
        return chosen, {"streak": streak, "exposures": exposures, "acquired": acquired}

    def aim(self, topics: int, state: Mapping[str, Any]) -> None:
        return None
