"""A proportional-integral controller of each topic's rate (ours; the paper doubles and halves)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gin
import numpy as np

from ttoaa.knowledge.policy import Aim, Setting, State

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
