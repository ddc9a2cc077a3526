"""The loader: batch k is a pure function of (corpus, order, plan, k) (contracts C1 and C2).

Grain's element is this process's share of one step's batch, so that slicing the dataset is resuming
it, and no iterator state is ever stored. Transforms after it see the step and the whole share.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import Order
from ttoaa.planning.geometry import Geometry
from ttoaa.planning.plan import Plan

Batch = dict[str, Any]
"""step int; position int64[b]; tokens int32[b, L]; arms uint16[b, L], 0 for the corpus."""
Transform = Callable[[int, Batch], Batch]


class Rows:
    """Element k: rows `rows` of the batch of step k, as the corpus has them."""

    def __init__(self, corpus: Corpus, order: Order, geometry: Geometry, rows: range) -> None:
        self._corpus, self._order, self._geometry, self._rows = corpus, order, geometry, rows

    def __len__(self) -> int:
        return self._geometry.steps

    def __getitem__(self, step: int) -> Batch:
        position = step * self._geometry.batch + np.asarray(self._rows, np.int64)
        windows = self._order.windows(position)
        tokens = self._corpus.windows("train", windows, self._geometry.length)
        arms = np.zeros(tokens.shape, np.uint16)
        return {"step": step, "position": position, "tokens": tokens, "arms": arms}


class Overlay:
    """Writes the plan's edits over a batch: all experiments at once, cost by edits alone."""

    def __init__(self, plan: Plan, corpus: Corpus) -> None:
        self._plan, self._corpus = plan, corpus

    def __call__(self, step: int, batch: Batch) -> Batch:
        position, tokens = batch["position"], batch["tokens"]
        length = tokens.shape[1]
        chosen = self._plan.between(int(position[0]), int(position[-1]) + 1)
        edits = {name: column[chosen] for name, column in self._plan.columns.items()}
        lengths = edits["length"].astype(np.int64)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        target = (edits["position"] - position[0]) * length + edits["offset"]
        target = np.repeat(target, lengths) + within
        reserve = np.flatnonzero(edits["from_reserve"])
        windows = self._corpus.windows("reserve", edits["source"][reserve], length).ravel()
        start = edits["source"].copy()
        start[reserve] = np.arange(len(reserve)) * length
        start, own = np.repeat(start, lengths) + within, np.repeat(edits["from_reserve"], lengths)
        flat = tokens.reshape(-1)
        flat[target[~own]] = self._plan.tokens[start[~own]]
        flat[target[own]] = windows[start[own]]
        batch["arms"].reshape(-1)[target] = np.repeat(edits["arm"], lengths)
        return batch


def batches(
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    plan: Plan | None = None,
    *,
    rows: range | None = None,
    start: int = 0,
    stop: int | None = None,
    threads: int = 1,
    workers: int = 0,
    transforms: Sequence[Transform] = (),
) -> Iterator[Batch]:
    """Batches of steps start <= k < stop; `rows` (contiguous) are this process's share.

    Threads and worker processes change the speed, never the bits. Transforms run after the plan's
    edits, in order; they must be pure and, with workers, picklable.
    """
    stop = geometry.steps if stop is None else stop
    rows = range(geometry.batch) if rows is None else rows
    if not 0 <= start <= stop <= geometry.steps:
        raise ValueError(f"steps {start} to {stop} are outside the run of {geometry.steps}")
    if not len(rows) or rows.step != 1 or rows[0] < 0 or rows[-1] >= geometry.batch:
        raise ValueError(f"rows {rows} are not a contiguous part of a batch of {geometry.batch}")
    dataset = grain.MapDataset.source(Rows(corpus, order, geometry, rows))
    overlay = () if plan is None else (Overlay(plan, corpus),)
    for transform in (*overlay, *transforms):
        dataset = dataset.map_with_index(transform)
    # Slicing comes last: map_with_index above it keeps seeing the step of the run.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 if threads else 0)
    iterable = dataset[start:stop].to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads a flag of its own when it forks workers
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(iterable)
