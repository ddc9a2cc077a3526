"""Random draws that are the same on every version of Python: all come from `Random.random`."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """A stream of draws of its own for each key."""

    def __init__(self, key: int | str) -> None:
        self.uniform: Callable[[], float] = random.Random(key).random

    def between(self, low: int, high: int) -> int:
        """A whole number of low to high, both included."""
        return low + int(self.uniform() * (high - low + 1))

    def choice(self, values: Sequence[T]) -> T:
        return values[int(self.uniform() * len(values))]

    def weighted(self, values: Sequence[T], weights: Sequence[float]) -> T:
        left = self.uniform() * sum(weights)
        for value, weight in zip(values, weights, strict=True):
            left -= weight
            if left < 0:
                return value
        return values[-1]

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """`count` different ones, in random order."""
        rest, drawn = list(values), []
        for _ in range(count):
            drawn.append(rest.pop(int(self.uniform() * len(rest))))
        return drawn
