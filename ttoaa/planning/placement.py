"""Placements: where the copies of an item go in training.

A placement is a small class that an experiment takes as a field and a config binds. Subclass
`RandomPlacement` where the planner draws the address of each copy, or `FixedPlacement` where the
placement dictates it (docs/extending/placement.md).
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import gin
import numpy as np

from ttoaa.config_fields import AtLeast, AtMost, Below, PositiveInt, PositiveShare, config_class
from ttoaa.data.geometry import Geometry


class Placement:
    """Base of `RandomPlacement` and `FixedPlacement`: subclass one of those."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """Consecutive parts of training; a copy is uniform over the rows and offsets of its part.

    Copy r of an item goes to part r mod the number of parts. With `in_blocks`, an item has a
    multiple of that many copies, n for each part, and copy r goes to part r // n.
    """

    edges: np.ndarray
    """int64[parts + 1] ascending: part i is the rows edges[i] to edges[i + 1] - 1."""
    in_blocks: bool = False


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Addresses of which each copy gets another one, by a keyed random choice.

    Addresses that another edit covers, or at which the item would leave its row, are not chosen.
    """

    positions: np.ndarray
    """int64[n] rows of the training order."""
    offsets: np.ndarray
    """int64[n] tokens of the row."""


class RandomPlacement(Placement, abc.ABC):
    """A placement that leaves a choice, which the planner draws from the item's random stream.

    Subclasses must be hashable, since equal placements share their regions: make them frozen
    dataclasses, with `eq=False` if they hold arrays.
    """

    @abc.abstractmethod
    def regions(self, geometry: Geometry) -> Parts | Candidates:
        """Return the regions of a run of this geometry, the same at every call.

        May raise ValueError; the planner adds the names of experiment and item.
        """


class FixedPlacement(Placement, abc.ABC):
    """A placement that dictates the address of every copy: nothing is drawn or moved."""

    @abc.abstractmethod
    def addresses(self, geometry: Geometry, repetitions: np.ndarray, lengths: np.ndarray) -> Any:
        """Return (positions, offsets) of all copies of n items: those of the first item, and so on.

        `repetitions` and `lengths` (tokens) are int64[n], of one `Item` or of a block of `Items`.
        `offsets` may be a single number. May raise ValueError; the planner adds the names.
        """


@gin.configurable
@config_class
class Uniform(RandomPlacement):
    """Anywhere in training: uniform over rows, and over offsets at which the item fits."""

    def regions(self, geometry: Geometry) -> Parts:
        return Parts(np.array([0, geometry.sequences]))


@gin.configurable
@config_class
class Within(RandomPlacement):
    """Uniform in the part of training from fraction `start` up to (not including) `stop`.

    The bounds are rounded to whole rows.
    """

    start: Annotated[float, AtLeast(0), Below(1)]
    stop: PositiveShare

    def __post_init__(self) -> None:
        if self.start >= self.stop:
            raise ValueError(f"Within.start must be below stop, {self.stop}, not {self.start}")

    def regions(self, geometry: Geometry) -> Parts:
        total = geometry.sequences
        return Parts(np.array([round(self.start * total), round(self.stop * total)]))


@gin.configurable
@config_class
class Stratified(RandomPlacement):
    """Copy r is uniform in part r mod `parts` of training: ten parts are deciles."""

    parts: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 10

    def regions(self, geometry: Geometry) -> Parts:
        return Parts(np.arange(self.parts + 1) * geometry.sequences // self.parts)


@gin.configurable
@config_class
class PerInterval(RandomPlacement):
    """The same number of copies, uniform, in every interval of `steps` steps.

    Of n copies an interval, copy r is number r mod n of interval r // n: the slots that a
    controller may fill.
    """

    steps: PositiveInt

    def regions(self, geometry: Geometry) -> Parts:
        first_rows = np.arange(0, geometry.steps, self.steps) * geometry.batch
        return Parts(np.append(first_rows, geometry.sequences), in_blocks=True)


@dataclasses.dataclass(frozen=True, eq=False)
class AtOccurrences(RandomPlacement):
    """Each copy at another of these places, such as where an n-gram occurs: see `Candidates`."""

    positions: np.ndarray
    """int64[n] rows of the training order."""
    offsets: np.ndarray
    """int64[n] tokens of the row."""

    def regions(self, geometry: Geometry) -> Candidates:
        return Candidates(self.positions, self.offsets)


WholeNumbers = Any
"""int or int[n], a list or an array. The planner checks them, so that errors name the item."""


@gin.configurable
@config_class
class Explicit(FixedPlacement):
    """Copy r of the item goes to row `positions[r]` of training, at token `offsets[r]`."""

    positions: WholeNumbers
    offsets: WholeNumbers = 0
    """One number for each copy, or one for all."""

    def addresses(self, geometry: Geometry, repetitions: np.ndarray, lengths: np.ndarray) -> Any:
        return self.positions, self.offsets


@gin.configurable
@config_class
class WholeBatch(FixedPlacement):
    """The item fills one row of the batch of step `steps[r]`: row number `row`.

    To fill a whole batch, use one item for each row, or a block of `Items`, whose item i fills row
    `row + i`.
    """

    steps: WholeNumbers
    row: WholeNumbers

    def addresses(self, geometry: Geometry, repetitions: np.ndarray, lengths: np.ndarray) -> Any:
        steps = whole_numbers("WholeBatch", "steps", self.steps)
        rows = whole_numbers("WholeBatch", "row", [self.row]) + np.arange(len(lengths))
        full = (lengths == geometry.length) | (lengths == 0)  # 0: noise that shares its row
        if rows[0] < 0 or rows[-1] >= geometry.batch or not full.all():
            raise ValueError(
                f"a whole batch has rows 0 to {geometry.batch - 1}, each full: use items of "
                f"{geometry.length} tokens"
            )
        if np.any(repetitions != len(steps)):
            found = int(repetitions[repetitions != len(steps)][0])
            raise ValueError(f"{found} repetitions but {len(steps)} places")
        return (rows[:, None] + steps * geometry.batch).ravel(), 0


class RegionTable:
    """The distinct regions of a plan's random placements, numbered in order of appearance."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._numbers: dict[RandomPlacement, int] = {}
        self._edges: list[np.ndarray] = []
        self._candidates: list[np.ndarray] = []
        self._is_candidates: list[bool] = []
        self._in_blocks: list[bool] = []
        self._copies: list[int] = []

    def number(self, where: str, placement: RandomPlacement, repetitions: np.ndarray) -> int:
        """Return the number of the regions of items with these repetitions, int64[n].

        Raises ValueError, beginning with `where`, for regions that cannot take them.
        """
        try:
            number = self._numbers.setdefault(placement, len(self._edges))
        except TypeError as error:
            raise ValueError(
                f"{where}: {type(placement).__name__} cannot be hashed ({error}): make it a frozen "
                "dataclass, with eq=False if it holds arrays"
            ) from error
        if number == len(self._edges):
            self._add(where, placement)
        parts = len(self._edges[number]) - 1
        if self._in_blocks[number] and np.any(repetitions % parts):
            raise ValueError(
                f"{where}: {placement} makes {parts} intervals of this run, its repetitions "
                "must be a multiple of that"
            )
        self._copies[number] += int(repetitions.sum())
        found = self._edges[number][-1] - self._edges[number][0]
        if self._is_candidates[number] and self._copies[number] > found:
            raise ValueError(
                f"{where}: {self._copies[number]:,} copies need a place each, and the placement "
                f"offers {found:,} places: lower the repetitions"
            )
        return number

    def _add(self, where: str, placement: RandomPlacement) -> None:
        try:
            regions = placement.regions(self._geometry)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if isinstance(regions, Candidates):
            places = _validate_addresses(
                where, regions.positions, regions.offsets, 1, self._geometry
            )
            before = sum(map(len, self._candidates))
            self._candidates.append(np.unique(places))
            edges = before + np.array([0, len(self._candidates[-1])])
        else:
            edges, total = whole_numbers(where, "edges", regions.edges), self._geometry.sequences
            if len(edges) < 2 or np.any(np.diff(edges) < 1):
                raise ValueError(f"{where}: a part of {placement} holds no row of {total}")
            if edges[0] < 0 or edges[-1] > total:
                raise ValueError(f"{where}: {placement} leaves the run of {total} rows")
        self._edges.append(edges)
        self._is_candidates.append(isinstance(regions, Candidates))
        self._in_blocks.append(isinstance(regions, Parts) and regions.in_blocks)
        self._copies.append(0)

    def arrays(self) -> "RegionArrays":
        return RegionArrays(self._edges, self._candidates, self._is_candidates, self._in_blocks)


class RegionArrays:
    """The regions of a plan as arrays, for look-ups by the million."""

    def __init__(
        self,
        edges: Sequence[np.ndarray],
        candidates: Sequence[np.ndarray],
        is_candidates: Sequence[bool],
        in_blocks: Sequence[bool],
    ) -> None:
        none = [np.empty(0, np.int64)]
        parts = np.array([len(each) - 1 for each in edges], np.int64)
        self._first, self._parts = np.cumsum(parts + 1) - parts - 1, parts
        self._edges = np.concatenate([*none, *edges])
        self.is_candidates = np.array(is_candidates, bool)
        self._in_blocks = np.array(in_blocks, bool)
        self.candidates = np.concatenate([*none, *candidates])
        """int64[c] addresses, ascending within the candidates of a placement."""

    def bounds(
        self, region: np.ndarray, repetition: np.ndarray, repetitions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (low, high, whether they count candidates instead of rows) of each copy, [n]."""
        parts = self._parts[region]
        part = repetition % parts
        blocks = np.flatnonzero(self._in_blocks[region])
        per_part = repetitions[blocks] // parts[blocks]
        part[blocks] = repetition[blocks] // per_part
        edge = self._first[region] + part
        return self._edges[edge], self._edges[edge + 1], self.is_candidates[region]


def fixed_addresses(
    where: str,
    placement: Placement,
    repetitions: np.ndarray,
    lengths: np.ndarray,
    geometry: Geometry,
) -> np.ndarray:
    """Return the addresses that a fixed placement dictates, int64[sum of repetitions].

    `repetitions` and `lengths` are int64[n], of the items that share it. Raises ValueError,
    beginning with `where`, for addresses outside the run or its rows, and for what is no placement.
    """
    if not isinstance(placement, FixedPlacement):
        raise ValueError(
            f"{where}: {placement!r} is not a placement: subclass RandomPlacement or FixedPlacement"
        )
    try:
        positions, offsets = placement.addresses(geometry, repetitions, lengths)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    copies = np.repeat(lengths, repetitions)
    return _validate_addresses(where, positions, offsets, copies, geometry)


def _validate_addresses(
    where: str, positions: Any, offsets: Any, lengths: np.ndarray | int, geometry: Geometry
) -> np.ndarray:
    """Return int64[n] addresses, or raise ValueError where one is outside the run or its row."""
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
    """Convert a list to int64[n]; raises ValueError for fractions, which NumPy would truncate."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty((1, 1))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{where} needs a list of whole numbers as {name}, not {values!r}")
    return array.astype(np.int64)
