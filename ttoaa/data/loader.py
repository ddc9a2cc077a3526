"""The loader: batch k is a pure function of (corpus, order, transforms, k) (contracts C1 and C2).

A Grain element is this process's share of one step's batch, so slicing the dataset resumes it, and
no iterator state is stored. Transforms see the step and the whole share.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order

Batch = dict[str, Any]
"""step int; position int64[b]; tokens int32[b, L]; arms uint16[b, L], 0 for the corpus."""
Transform = Callable[[int, Batch], Batch]

_LOOKUP = 1 << 13  # positions at once


class Rows:
    """Element k holds rows `rows` of the batch of step k, as they are in the corpus."""

    def __init__(self, corpus: Corpus, order: Order, geometry: Geometry, rows: np.ndarray) -> None:
        self._corpus, self._order, self._geometry, self._rows = corpus, order, geometry, rows
        self._steps = max(1, _LOOKUP // len(rows))
        self._found: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __len__(self) -> int:
        return self._geometry.steps

    def __getitem__(self, step: int) -> Batch:
        position = step * self._geometry.batch + self._rows
        windows = self._windows(step)
        tokens = self._corpus.windows("train", windows, self._geometry.length)
        arms = np.zeros(tokens.shape, np.uint16)
        return {"step": step, "position": position, "tokens": tokens, "arms": arms}

    def _windows(self, step: int) -> np.ndarray:
        """Return the windows, int64[b], of a step; several steps are looked up at once."""
        number, inside = divmod(step, self._steps)
        block, windows_SxB = self._found  # another thread may replace the pair
        if block != number:
            steps = np.arange(number * self._steps, (number + 1) * self._steps)
            windows_SxB = self._order.windows(steps[:, None] * self._geometry.batch + self._rows)
            self._found = number, windows_SxB
        return windows_SxB[inside]


def batches(
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    transforms: Sequence[Transform] = (),
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    start: int = 0,
    stop: int | None = None,
    threads: int = 1,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield the batches of steps start <= k < stop.

    Threads and worker processes change the speed, never the bits.

    Args:
        transforms: applied in order, such as the plan's edits (planning.injection); they must be
            pure and, with workers, picklable.
        rows: this process's share of a batch, ascending; all rows by default.

    Raises:
        ValueError: steps outside the run, or rows outside the batch.
    """
    stop = geometry.steps if stop is None else stop
    share = np.asarray(range(geometry.batch) if rows is None else rows, np.int64)
    if not 0 <= start <= stop <= geometry.steps:
        raise ValueError(f"steps {start} to {stop} are outside the run of {geometry.steps}")
    if not len(share) or share[0] < 0 or share[-1] >= geometry.batch or (np.diff(share) < 1).any():
        raise ValueError(f"rows {rows} are not an ascending part of a batch of {geometry.batch}")
    dataset = grain.MapDataset.source(Rows(corpus, order, geometry, share))
    for transform in transforms:
        dataset = dataset.map_with_index(transform)
    # Slicing comes last, so that map_with_index above sees the step of the run.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 if threads else 0)
    iterable = dataset[start:stop].to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads a flag when it starts workers
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable)
