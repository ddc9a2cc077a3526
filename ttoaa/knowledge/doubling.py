"""The paper's controller (arXiv 2509.23383, Algorithm 1 and E.1): doubling and halving."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.knowledge.policy import MEASURES, Aim, Setting, State, measure


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
