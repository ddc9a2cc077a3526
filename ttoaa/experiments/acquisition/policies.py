"""The paper's controller (arXiv 2509.23383, Algorithm 1 and E.1): doubling and halving.

A proportional-integral controller of each topic's rate (ours; the paper doubles and halves).

Arms that follow no target: a fixed rate, and nothing at all.

Inserting "until the model acquires a particular piece of knowledge" (the paper's abstract).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.experiments.acquisition.policy import MEASURES, Aim, Setting, State, measure


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Doubling:
    """One number n of texts for all topics, taken in rotation.

    At each interval but the first: above the band around the target n is halved, rounded down;
    below it n is doubled; then its change is limited to that of the phase, then n to
    `least` .. `most`. All constants are the paper's, but for the first n, which it does not give.
    """

    name: str = "doubling"
    initial: int = 1
    band: float = 0.05
    """Of the target, to either side."""
    limits: Sequence[tuple[float, int]] = ((0.19, 256), (0.59, 64))
    """(fraction of training, most that n changes by in any interval that begins after it)."""
    least: int = 1
    most: int = 8192
    measure: str = "probability"
    """What is held on target, see `policy.measure`: 'probability' or 'log_probability'."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.initial <= self.most or self.most < 1:
            raise ValueError(
                "Doubling needs 0 <= least <= initial <= most, and a most of 1 or more"
            )
        if not 0 <= self.band < 1:
            raise ValueError("Doubling.band must be in [0, 1)")
        if self.measure not in MEASURES:
            raise ValueError(f"Doubling.measure must be among {MEASURES}, not {self.measure!r}")
        begins = [fraction for fraction, _ in self.limits]
        if begins != sorted(begins) or any(limit < 1 for _, limit in self.limits):
            raise ValueError("Doubling.limits must be (ascending fraction, change of 1 or more)")

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
            n = self._changed(n, value, setting.goal(interval), interval * setting.every, setting)
        n = min(max(n, self.least), self.most)
        return [(first + k) % texts for k in range(n)], {"n": n, "next": (first + n) % texts}

    def aim(self, topics: int, state: Mapping[str, Any]) -> Aim:
        """An n of 0 counts as 1/2."""
        n = state["n"]
        return Aim(
            rate_K=np.full(topics, max(n, 0.5) / topics),
            at_least_K=np.full(topics, n <= self.least),
            at_most_K=np.full(topics, n >= self.most),
        )

    def _changed(self, n: int, value: float, goal: float, step: int, setting: Setting) -> int:
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
@dataclasses.dataclass(frozen=True)
class Proportional:
    """Each topic has a rate of its own, in texts an interval; the logarithm of it is what moves.

    Of topic k, with e the log target less the smoothed mean log-probability of its probes, the
    log-rate changes by proportional * (e - the last e) + integral * e, by no more than
    `largest_change`. Rates stay within `least` and `most_each`, and together within `most`, and
    what is cut off is forgotten (no wind-up). Fractions of a text are carried over, so that a rate
    below one text an interval is kept on average.

    Gains, by the rules of Skogestad (2003) for a lag and a delay: near the target a unit of
    log-rate moves log p by D nats in the end, most of it within the T intervals in which what was
    learnt fades, and nothing of it shows before an interval is over. A loop as slow as that delay
    has integral = 1 / (2 D) and proportional = T / (2 D). The defaults are for D = 3.3 and T = 2:
    knowledge that saturates towards log p = 0 as exp(-rate) has about that D at p = 0.1. Far below
    the target D is larger, but there the loop only climbs.
    """

    name: str = "controlled"
    proportional: float = 0.3
    integral: float = 0.15
    smoothing: float = 0.3
    """Weight of the past in the running mean of each topic's log-probability, in [0, 1)."""
    initial: float = 1.0
    """Texts of a topic in an interval, at first."""
    least: float = 0.05
    """A rate from which there is a way back soon."""
    most_each: float = 512.0
    """Of one topic."""
    most: int = 8192
    """Texts of all topics in an interval."""
    largest_change: float = math.log(4)

    def __post_init__(self) -> None:
        if min(self.proportional, self.integral) < 0 or self.largest_change <= 0:
            raise ValueError("Proportional needs gains of 0 or more and a largest_change above 0")
        if not 0 <= self.smoothing < 1:
            raise ValueError("Proportional.smoothing must be in [0, 1)")
        if not 0 < self.least <= self.initial <= self.most_each or self.most < 1:
            raise ValueError(
                "Proportional needs 0 < least <= initial <= most_each, and a most >= 1"
            )

    def slots(self, setting: Setting) -> int:
        return self.most

    def start(self, setting: Setting) -> State:
        each = setting.topics
        return {
            "log_rate": [math.log(self.initial)] * each,
            "smoothed": None,
            "error": None,
            "carry": [topic / each for topic in range(each)],  # or all would be due at once
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
        log_rate = self._within(log_rate)
        due = np.array(state["carry"]) + np.exp(log_rate)
        count = self._whole(due)
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

    def _within(self, log_rate: np.ndarray) -> np.ndarray:
        log_rate = np.clip(log_rate, math.log(self.least), math.log(self.most_each))
        over = math.log(np.exp(log_rate).sum() / self.most)
        return log_rate - over if over > 0 else log_rate

    def _whole(self, due: np.ndarray) -> np.ndarray:
        """int64[K]: whole texts of what is due, at most `most` together; the rest is carried."""
        count = np.floor(due).astype(np.int64)
        while count.sum() > self.most:
            count[np.argmax(count)] -= 1
        return count


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FixedRate:
    """As many tokens as are given, spread evenly over training, whatever the model knows.

    With the tokens that a controlled arm took (of another seed, or it is tuned on what is told),
    it says what control is worth.
    """

    tokens: int
    """Of all texts together; it stops short of them by less than a text."""
    name: str = "fixed"

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"FixedRate.tokens must be a positive integer, not {self.tokens!r}")

    def slots(self, setting: Setting) -> int:
        until = [self._until(setting, interval) for interval in range(setting.intervals + 1)]
        return max(1, int(np.diff(until).max()))

    def start(self, setting: Setting) -> State:
        return {}

    def decide(
        self, setting: Setting, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], State]:
        first, last = self._until(setting, interval), self._until(setting, interval + 1)
        return [k % len(setting.text_topic) for k in range(first, last)], {}

    def aim(self, topics: int, state: Mapping[str, Any]) -> None:
        return None

    def _until(self, setting: Setting, interval: int) -> int:
        """How many texts stand before an interval, in rotation."""
        due = self.tokens * interval // setting.intervals
        total = np.cumsum(setting.text_tokens)
        rounds, rest = divmod(due, int(total[-1]))
        return rounds * len(total) + int(np.searchsorted(total, rest, "right"))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Never:
    """Measures what is never inserted."""

    name: str = "never"

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
@dataclasses.dataclass(frozen=True)
class Criterion:
    """A topic is acquired once the mean log-probability of its probes was at a threshold or above
    it so many times in a row."""

    log_probability: float = math.log(0.5)
    times: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.times, int) or self.times < 1 or self.log_probability > 0:
            raise ValueError("Criterion needs times >= 1 and a log_probability of at most 0")

    def streak(self, before: Sequence[int], value_K: np.ndarray) -> np.ndarray:
        """int64[K]: how often in a row each topic was over the threshold."""
        return np.where(value_K >= self.log_probability, np.array(before, np.int64) + 1, 0)

    def first_met(self, value_IxK: np.ndarray) -> np.ndarray:
        """int64[K]: the measurement at which each topic was acquired, -1 for never."""
        met = np.full(value_IxK.shape[1], -1)
        streak = np.zeros(value_IxK.shape[1], np.int64)
        for number, value_K in enumerate(value_IxK):
            streak = self.streak(streak.tolist(), value_K)
            met[(met < 0) & (streak >= self.times)] = number
        return met


@gin.configurable
@dataclasses.dataclass(frozen=True)
class UntilAcquired:
    """The same rate for every topic until it is acquired, then never again.

    The state records of each topic its exposures, and the step at which it was acquired.
    """

    name: str = "until"
    rate: int = 1
    """Texts of a topic in an interval."""
    criterion: Criterion = dataclasses.field(default_factory=Criterion)

    def __post_init__(self) -> None:
        if not isinstance(self.rate, int) or self.rate < 1:
            raise ValueError(f"UntilAcquired.rate must be a positive integer, not {self.rate!r}")

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
