"""Where the copies of an item may go: plain values that the planner turns into addresses.

Placements as numbers: the parts of training that an item's copies may go to, or its addresses.

A spread is a placement that leaves a choice. Its copies are dealt to parts, and each is placed
anywhere in its own part: rows `edges[i]` to `edges[i + 1]`, or those entries of `candidates`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.data.geometry import Geometry


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


class Spreads:
    """The spreads of a plan, numbered as they come."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._numbers: dict[Placement, int] = {}
        self._edges: list[np.ndarray] = []
        self._candidates: list[np.ndarray] = []
        self._at: list[bool] = []
        self._blocked: list[bool] = []
        self.asked: list[int] = []
        """Copies that each spread places."""

    def number(self, where: str, placement: Placement, repetitions: np.ndarray) -> int:
        """The spread of items with these repetitions, int64[n]; a bad one is a ValueError."""
        if placement not in self._numbers:
            edges = self._edges_of(where, placement)
            self._numbers[placement] = len(self._edges)
            self._edges.append(edges)
            self._at.append(isinstance(placement, AtOccurrences))
            self._blocked.append(isinstance(placement, PerInterval))
            self.asked.append(0)
        number = self._numbers[placement]
        intervals = len(self._edges[number]) - 1
        if self._blocked[number] and np.any(repetitions % intervals):
            raise ValueError(
                f"{where}: {placement} makes {intervals} intervals of this run, its repetitions "
                "must be a multiple of that"
            )
        self.asked[number] += int(repetitions.sum())
        found = self._edges[number][-1] - self._edges[number][0]
        if self._at[number] and self.asked[number] > found:
            raise ValueError(
                f"{where}: {self.asked[number]:,} copies are to go where something occurs, and it "
                f"occurs {found:,} times: lower the repetitions"
            )
        return number

    def _edges_of(self, where: str, placement: Placement) -> np.ndarray:
        total = self._geometry.sequences
        if isinstance(placement, Uniform):
            edges = np.array([0, total])
        elif isinstance(placement, Within):
            edges = np.array([round(placement.start * total), round(placement.stop * total)])
        elif isinstance(placement, Stratified):
            edges = np.arange(placement.parts + 1) * total // placement.parts
        elif isinstance(placement, PerInterval):
            steps = np.arange(0, self._geometry.steps, placement.steps)
            edges = np.append(steps * self._geometry.batch, total)
        elif isinstance(placement, AtOccurrences):
            places = addresses(where, placement.positions, placement.offsets, 1, self._geometry)
            before = sum(map(len, self._candidates))
            self._candidates.append(np.unique(places))
            return before + np.array([0, len(self._candidates[-1])])
        else:
            raise ValueError(f"{where}: unknown placement {placement!r}")
        if np.any(np.diff(edges) < 1):
            raise ValueError(f"{where}: {placement} holds no sequence of {total}")
        return edges

    def arrays(self) -> "SpreadArrays":
        return SpreadArrays(self._edges, self._candidates, self._at, self._blocked)


class SpreadArrays:
    """The spreads of a plan, to be looked up by the million."""

    def __init__(
        self,
        edges: Sequence[np.ndarray],
        candidates: Sequence[np.ndarray],
        at: Sequence[bool],
        blocked: Sequence[bool],
    ) -> None:
        none = [np.empty(0, np.int64)]
        parts = np.array([len(each) - 1 for each in edges], np.int64)
        self._first, self._parts = np.cumsum(parts + 1) - parts - 1, parts
        self._edges = np.concatenate([*none, *edges])
        self.at, self._blocked = np.array(at, bool), np.array(blocked, bool)
        self.candidates = np.concatenate([*none, *candidates])
        """int64[c] addresses, ascending within a spread."""

    def of(
        self, spread: np.ndarray, repetition: np.ndarray, repetitions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(low, high, whether they count candidates, not rows) for each copy; all int64[n]."""
        parts = self._parts[spread]
        part = repetition % parts
        blocked = np.flatnonzero(self._blocked[spread])
        each = repetitions[blocked] // parts[blocked]
        part[blocked] = repetition[blocked] // each
        edge = self._first[spread] + part
        return self._edges[edge], self._edges[edge + 1], self.at[spread]


def fixed_addresses(
    where: str,
    placement: Placement,
    repetitions: np.ndarray,
    lengths: np.ndarray,
    geometry: Geometry,
) -> np.ndarray | None:
    """int64[sum of repetitions]: addresses that the placement dictates; None where it does not.

    `repetitions` and `lengths` are int64[n], of the items that share it.
    """
    positions: Any
    offsets: Any = 0
    if isinstance(placement, WholeBatch):
        steps = whole_numbers(where, "steps", placement.steps)
        rows = whole_numbers(where, "row", [placement.row]) + np.arange(len(lengths))
        if rows[0] < 0 or rows[-1] >= geometry.batch or np.any(lengths != geometry.length):
            raise ValueError(
                f"{where}: a whole batch has rows 0 to {geometry.batch - 1}, each full"
            )
        positions = (rows[:, None] + steps * geometry.batch).ravel()
        if np.any(repetitions != len(steps)):
            found = int(repetitions[repetitions != len(steps)][0])
            raise ValueError(f"{where} has {found} repetitions but {len(steps)} places")
    elif isinstance(placement, Explicit):
        positions, offsets = placement.positions, placement.offsets
    else:
        return None
    return addresses(where, positions, offsets, np.repeat(lengths, repetitions), geometry)


def addresses(
    where: str, positions: Any, offsets: Any, lengths: np.ndarray | int, geometry: Geometry
) -> np.ndarray:
    """int64[n] of these positions and offsets, checked to be inside the run and its rows."""
    positions = whole_numbers(where, "positions", positions)
    offsets = offsets if np.iterable(offsets) else [offsets] * len(positions)
    offsets = whole_numbers(where, "offsets", offsets)
    if len(offsets) != len(positions):
        raise ValueError(f"{where} has {len(positions)} positions but {len(offsets)} offsets")
    if not isinstance(lengths, int) and len(lengths) != len(positions):
        raise ValueError(f"{where} has {len(lengths)} repetitions but {len(positions)} places")
    if np.any((positions < 0) | (positions >= geometry.sequences)):
        raise ValueError(f"{where} is placed outside the run of {geometry.steps} steps")
    if np.any((offsets < 0) | (offsets + lengths > geometry.length)):
        raise ValueError(f"{where} would leave its row of {geometry.length} tokens")
    return positions * geometry.length + offsets


def whole_numbers(where: str, name: str, values: Any) -> np.ndarray:
    """int64[n]; NumPy would cut fractions off without a word."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty((1, 1))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{where} needs a list of whole numbers as {name}, not {values!r}")
    return array.astype(np.int64)
