"""Arms that follow no target: a fixed rate, and nothing at all."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gin
import numpy as np

from ttoaa.knowledge.policy import Setting, State


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
