"""From the loader onto the devices: which rows a process loads, and where they go (C1)."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np

from ttoaa.data.loader import Batch, Transform

Placed = dict[str, jax.Array]


def local_rows(sharding: jax.sharding.Sharding, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of a global array [B, …] of which this process's devices hold a part: int64, ascending.

    They need not be contiguous. Where devices of several processes hold the same rows, as with
    tensor parallelism across hosts, each of these processes loads them.
    """
    held = np.zeros(shape[0], bool)
    for index in sharding.addressable_devices_indices_map(shape).values():
        held[index[0] if index else slice(None)] = True
    return np.flatnonzero(held)


def place(batch: Batch, rows: np.ndarray, like: Mapping[str, jax.ShapeDtypeStruct]) -> Placed:
    """This process's share, rows `rows`, as its part of global arrays like `like` (Program.batch).

    A row is trained on unless `batch["trained"]`, bool[b], says otherwise. On CPU the arrays may
    lie in the batch's own memory for ever: nobody may write into a batch that was placed.
    """
    share = {"trained": np.ones(len(rows), bool), **batch}
    return {name: _placed(share[name], rows, array) for name, array in like.items()}


def _placed(values: np.ndarray, rows: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
    if values.shape != (len(rows), *like.shape[1:]):
        raise ValueError(f"a share of {len(rows)} rows of {like.shape} has not {values.shape}")
    values = values.astype(like.dtype, copy=False)

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(like.shape[0])
        low = int(np.searchsorted(rows, first))
        return values[(slice(low, low + last - first), *index[1:])]

    return jax.make_array_from_callback(like.shape, like.sharding, part)


def followed(batches: Iterator[Batch], transforms: Sequence[Transform]) -> Iterator[Batch]:
    """The batches after these transforms, which see one only when it is asked for."""
    for batch in batches:
        for transform in transforms:
            batch = transform(batch["step"], batch)
        yield batch


def ahead(
    batches: Iterator[Batch],
    place: Callable[[Batch], Placed],
    boundary: Callable[[int], bool] = lambda step: False,
) -> Iterator[tuple[int, Placed]]:
    """(step, placed batch), where the next batch is placed before one is given out.

    It lies on the devices when its step is dispatched. The batch of a step that `boundary` names is
    not asked for before the one before it was given out and the caller came back for more.
    """
    waiting: tuple[int, Placed] | None = None
    for batch in batches:
        step = batch["step"]
        now = step, place(batch)
        if waiting is not None:
            yield waiting
        waiting = now
        if boundary(step + 1):
            yield waiting
            waiting = None
    if waiting is not None:
        yield waiting
