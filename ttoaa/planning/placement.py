"""Where the copies of an item may go: plain values that the planner turns into addresses."""

import dataclasses
from collections.abc import Sequence

import gin
import numpy as np


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Uniform:
    """Anywhere in training: uniform over sequences, and over offsets at which the item fits."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Within:
    """Uniform in the part of training from fraction `start` up to (not including) `stop`.

    The bounds are rounded to whole sequences.
    """

    start: float
    stop: float

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"Within.{name} must be a number, not {getattr(self, name)!r}")
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"Within needs 0 <= start < stop <= 1 (fractions of training), "
                f"not start={self.start}, stop={self.stop}"
            )


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Explicit:
    """Copy r of the item goes to sequence `positions[r]` at token `offsets[r]`."""

    positions: Sequence[int]
    offsets: Sequence[int] | int = 0


@gin.configurable
@dataclasses.dataclass(frozen=True)
class WholeBatch:
    """The item fills one row of the batch of step `steps[r]`: row number `row`.

    A whole batch is as many items as it has rows, one for each row: or a block of `Items`, whose
    item i fills row `row + i`.
    """

    steps: Sequence[int]
    row: int


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Stratified:
    """Copy r is uniform in part r mod `parts` of training: with ten parts, one a decile."""

    parts: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.parts, int) or self.parts < 1:
            raise ValueError(f"Stratified.parts must be a positive integer, not {self.parts!r}")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class PerInterval:
    """Training is cut into intervals of `steps` steps; each gets as many copies, uniform in it.

    Of n copies an interval, copy r is the (r mod n)-th of interval r // n: the slots that a
    controller may fill.
    """

    steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"PerInterval.steps must be a positive integer, not {self.steps!r}")


@dataclasses.dataclass(frozen=True, eq=False)
class AtOccurrences:
    """Each copy at another of these places, such as where an n-gram occurs: a keyed random choice.

    Places that something else covers, or at which the item would leave its row, are not chosen.
    """

    positions: np.ndarray
    """int64[n] sequences."""
    offsets: np.ndarray
    """int64[n]: the token of the sequence."""


Placement = Uniform | Within | Stratified | PerInterval | AtOccurrences | Explicit | WholeBatch
