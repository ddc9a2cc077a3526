"""Inserting "until the model acquires a particular piece of knowledge" (the paper's abstract)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.knowledge.policy import Setting, State


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
