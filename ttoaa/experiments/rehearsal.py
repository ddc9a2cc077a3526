"""Placeholder experiments: test whether a plan fits before the real items exist."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import Count, OneOf, PositiveInt, config_class
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, Sign, World
from ttoaa.planning.items import Items
from ttoaa.planning.placement import AtOccurrences, Placement, Uniform, WholeBatch

KINDS = ("tokens", "window", "slot", "mark")
_BLOCK = 50_000


@gin.configurable
@config_class
class Rehearsal(Experiment):
    """Items of random tokens with given lengths and repetitions, and no outcome.

    The plan shows whether experiments of this size fit into one run, and how long planning takes.
    """

    primary: str = "none/none"
    expected_sign: Sign = 1
    groups: Mapping[str, tuple[Count, Count]] = dataclasses.field(default_factory=dict)
    """condition -> (number of items, repetitions of each); 0 repetitions: a holdout."""
    kind: Annotated[str, OneOf(KINDS)] = "tokens"
    """'tokens', 'window' (reserve rows), 'slot' (of a controller) or 'mark'."""
    lengths: tuple[PositiveInt, PositiveInt] = (64, 128)
    """(fewest, most) tokens of an item, drawn uniformly; a window always fills its row."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    placements: Mapping[str, Placement] = dataclasses.field(default_factory=dict)
    """Overrides `placement` by condition."""
    batches: tuple[Count, PositiveInt] | None = None
    """(first, every): items fill whole batches, at step `first` and every `every` steps after."""
    occurrences: Count = 0
    """If not 0: place items on this many random rows, as if a text occurred there."""

    signs: ClassVar[Mapping[str, int]] = {"none": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(self.placements.keys() - self.groups.keys()):
            raise ValueError(f"{self.name}: placements has {unknown[0]!r}, which is not a group")
        if self.lengths[0] > self.lengths[1]:
            raise ValueError(f"{self.name}: lengths must be (fewest, most), not {self.lengths!r}")

    def reserve_windows(self, geometry: Geometry) -> int:
        return sum(n for n, _ in self.groups.values()) if self.kind == "window" else 0

    def intervene(self, world: World) -> Iterator[Items]:
        whole = self._occurrences(world) if self.occurrences else None
        windows = iter(np.split(world.windows, np.cumsum([n for n, _ in self.groups.values()])))
        for name, (count, repetitions) in self.groups.items():
            own = next(windows) if self.kind == "window" else None
            size = _BLOCK if self.batches is None else world.geometry.batch
            for first in range(0, count, size):
                number = range(first, min(first + size, count))
                placement = whole or self.placements.get(name, self.placement)
                if self.batches is not None:
                    step = self.batches[0] + first // size * self.batches[1]
                    placement = WholeBatch((step,), 0)
                yield Items(
                    ids=[f"{name}-{k}" for k in number],
                    condition=name,
                    repetitions=repetitions,
                    placement=placement,
                    **self._content(world, name, number, own),
                )

    def _content(
        self, world: World, name: str, number: range, windows: np.ndarray | None
    ) -> dict[str, Any]:
        if windows is not None:
            return {"windows": windows[number.start : number.stop]}
        low, high = self.lengths
        rng = world.rng(name, number.start)
        lengths = rng.integers(low, high + 1, len(number))
        if self.kind == "slot":
            return {"slots": lengths}
        if self.kind == "mark":
            return {"marks": lengths}
        vocab = world.tokenizer.vocab_size
        return {"tokens": rng.integers(0, vocab, lengths.sum(), np.int32), "lengths": lengths}

    def _occurrences(self, world: World) -> AtOccurrences:
        if self.occurrences > world.geometry.sequences:
            raise ValueError(
                f"{self.name}: {self.occurrences:,} occurrences in a run of "
                f"{world.geometry.sequences:,} rows: lower them"
            )
        rng = world.rng("occurrences")
        rows = rng.choice(world.geometry.sequences, self.occurrences, replace=False, shuffle=False)
        return AtOccurrences(rows, np.zeros_like(rows))

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """An empty table."""
        return pd.DataFrame({"item": [], "condition": [], "outcome": [], "value": []})

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Any]:
        return []

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        axes.set_axis_off()
