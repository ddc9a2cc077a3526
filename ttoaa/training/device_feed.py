"""Feed batches to the devices: which rows a process loads, and their placement (contract C1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from ttoaa.data.loader import Batch, Transform

DeviceBatch = dict[str, jax.Array]


def local_rows(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> np.ndarray:
    """Return the rows of a global array [B, ...] that this process loads: int64, ascending.

    These are the rows that its devices hold a part of; they need not be contiguous. If devices of
    several processes hold the same rows, as with tensor parallelism across hosts, each of these
    processes loads them.
    """
    held = np.zeros(shape[0], bool)
    for index in sharding.addressable_devices_indices_map(shape).values():
        held[index[0] if index else slice(None)] = True
    return np.flatnonzero(held)


def place_batch(
    batch: Batch, rows: np.ndarray, like: Mapping[str, jax.ShapeDtypeStruct]
) -> DeviceBatch:
    """Make global arrays like `like` (CompiledStep.batch) from this process's rows of a batch.

    A row is trained on unless `batch["trained"]`, bool[b], is False. Do not write into a batch
    afterwards: on CPU the arrays may share its memory.
    """
    share = {"trained": np.ones(len(rows), bool), **batch}
    return {name: _place_array(share[name], rows, array) for name, array in like.items()}


def _place_array(values: np.ndarray, rows: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    if values.shape != (len(rows), *like.shape[1:]):
        raise ValueError(
            f"a share of {len(rows)} rows of an array {like.shape} cannot be {values.shape}"
        )
    values = values.astype(like.dtype, copy=False)

    def shard(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(like.shape[0])
        low = int(np.searchsorted(rows, first))
        return values[(slice(low, low + last - first), *index[1:])]

    return jax.make_array_from_callback(like.shape, like.sharding, shard)


def apply_transforms(batches: Iterator[Batch], transforms: Sequence[Transform]) -> Iterator[Batch]:
    """Apply transforms to each batch, but not before it is requested."""
    for batch in batches:
        for transform in transforms:
            batch = transform(batch["step"], batch)
        yield batch


def prefetch(
    batches: Iterator[Batch],
    place: Callable[[Batch], DeviceBatch],
    is_boundary: Callable[[int], bool] = lambda step: False,
) -> Iterator[tuple[int, DeviceBatch]]:
    """Yield (step, placed batch), and place the next batch before one is yielded.

    So a batch is on the devices when its step is dispatched. The batch of a step for which
    `is_boundary` is true is not requested from `batches` until the caller requests it.
    """
    placed: tuple[int, DeviceBatch] | None = None
    for batch in batches:
        step = batch["step"]
        current = step, place(batch)
        if placed is not None:
            yield placed
        placed = current
        if is_boundary(step + 1):
            yield placed
            placed = None
    if placed is not None:
        yield placed
