"""Where the copies of an item may go: plain values that the planner turns into addresses."""

import dataclasses
from collections.abc import Sequence

import gin


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

    A whole batch is as many items as it has rows, one for each row.
    """

    steps: Sequence[int]
    row: int


Placement = Uniform | Within | Explicit | WholeBatch
