"""Read one checkpoint: an Orbax item per tree, and a meta file with fingerprints (contract C12).

Orbax restores flipped bytes as wrong numbers without an error. So the meta has a fingerprint of
every leaf and a checksum of itself, and every read verifies them. `checkpoints` saves and deletes.
"""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import logging
import math
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from ttoaa import bucket, shared_files
from ttoaa.checksums import has_checksum
from ttoaa.json_io import parse_json
from ttoaa.training.multihost import first_line, gather

T = TypeVar("T")
_META = ("meta", "metadata")
COMMITTED = "commit_success.txt"
"""File of a checkpoint that Orbax writes last."""


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read, or holds other trees than requested."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint is missing, unfinished, or not as it was saved."""


def committed_steps(folder: pathlib.Path) -> list[int]:
    """Return the steps of finished checkpoints, ascending.

    Orbax commits a checkpoint by renaming its folder, in a bucket by a file that it writes last.
    """
    found = [folder / name for name in shared_files.names(folder) if name.isdecimal()]
    last = (COMMITTED,) if bucket.find(folder) else _META
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        there = pool.map(lambda path: shared_files.exists(path.joinpath(*last)), found)
        return sorted(
            int(path.name) for path, is_there in zip(found, there, strict=True) if is_there
        )


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Read what was saved with the arrays: JSON, with a checksum of itself as "sha256".

    The meta of a run is put together in `training.loop` (`_save`): step, seed, identity, topology,
    ledger, records (see `run_records`) and, with controllers, decisions. That of an import is put
    together in `interop.convert`: step, source, identity and card. Saving adds the fingerprints of
    the arrays. Older checkpoints lack keys that were added later, so read new ones with `get`. The
    checksum identifies the checkpoint in outcome tables; new keys in new checkpoints do not make
    existing tables stale.

    Raises:
        DamagedCheckpoint: the meta is missing or a byte of it changed.
    """
    try:
        path = folder.joinpath(str(step), *_META)
        meta = parse_json(shared_files.read(path), path)
        intact = has_checksum(meta)
    except (OSError, ValueError, AttributeError) as error:
        _raise_machine_fault(folder, step, error)
        raise DamagedCheckpoint(f"checkpoint {step} in {folder} has no meta: {error}") from error
    if not intact:
        raise DamagedCheckpoint(f"checkpoint {step} in {folder} is damaged: its meta")
    return meta


def newest_meta(folder: pathlib.Path) -> dict[str, Any] | None:
    """Read the meta of the newest checkpoint whose meta is intact; None without one."""
    for step in reversed(committed_steps(folder)):
        with contextlib.suppress(DamagedCheckpoint):
            return read_meta(folder, step)
    return None


def read_checkpoint(folder: pathlib.Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Read trees of one checkpoint and verify their fingerprints.

    Every process calls it, and an error is raised on all of them.

    Args:
        abstract: for each tree, by name, its shapes, types and shardings. Leaves are laid out by
            these shardings, whatever the layout when they were saved; a leaf without a sharding
            goes to the first device. `params=tree` alone reads only the parameters.

    Raises:
        DamagedCheckpoint: the checkpoint itself is at fault.
        CheckpointError: it holds other trees, or the disk or the memory failed.
    """

    def restore() -> tuple[dict[str, Any], dict[str, Any]]:
        """Read without waiting for other processes, one of which may have failed."""
        prints = _saved_fingerprints(folder, step, abstract)
        return prints, {n: _restore_tree(folder, step, n, tree) for n, tree in abstract.items()}

    prints, restored = on_all_processes(restore)
    for name, tree in restored.items():
        _verify_fingerprints(folder, step, name, tree, prints[name])
    return restored


def read_checkpoint_lazily(
    folder: pathlib.Path, step: int, name: str, abstract: dict[str, Any]
) -> Any:
    """Open one tree of nested dicts as LazyArrays; each leaf is read and verified when it is used.

    For one process. Raises as `read_checkpoint`: at once if a leaf is missing or has another type
    or shape, and when a leaf is used if its values are damaged.
    """
    prints = _saved_fingerprints(folder, step, {name: abstract})[name]

    def lazy_leaf(path: tuple[Any, ...], leaf: Any) -> LazyArray:
        tree_of_leaf = leaf
        for part in reversed(path):
            tree_of_leaf = {part.key: tree_of_leaf}

        def load() -> np.ndarray:
            tree = _restore_tree(folder, step, name, tree_of_leaf)
            _verify_fingerprints(folder, step, name, tree, prints)
            return np.asarray(jax.tree.leaves(tree)[0])

        return LazyArray(leaf.shape, load)

    return jax.tree_util.tree_map_with_path(lazy_leaf, abstract)


def on_all_processes(action: Callable[[], T]) -> T:
    """Run the action on every process; if it fails on one, raise the same error on all.

    An error of a machine has precedence over a damaged checkpoint.
    """
    fault = None
    try:
        value = action()
    except CheckpointError as error:
        fault = error
    faults = gather(f"{isinstance(fault, DamagedCheckpoint):d}{fault}" if fault else "")
    worst = min(filter(None, faults), default=None)
    if worst is None:
        return value
    if fault and worst[1:] == str(fault):
        raise fault
    raise (DamagedCheckpoint if worst[0] == "1" else CheckpointError)(worst[1:])


def _saved_fingerprints(
    folder: pathlib.Path, step: int, abstract: dict[str, Any]
) -> dict[str, Any]:
    """Read the fingerprints of the requested trees; CheckpointError if their leaves differ."""
    saved = read_meta(folder, step)["fingerprints"]
    for name, tree in abstract.items():
        prints, checkpoint = saved.get(name), f"checkpoint {step} in {folder}"
        if prints is None:
            raise CheckpointError(f"{checkpoint} holds no {name}")
        requested, held = leaf_types(tree), {leaf: print_[0] for leaf, print_ in prints.items()}
        for leaf in sorted({*requested, *held}):
            ours, theirs = requested.get(leaf, "nothing"), held.get(leaf, "nothing")
            if ours != theirs:  # Orbax would cast another type without an error
                raise CheckpointError(f"{checkpoint} holds {name}{leaf} as {theirs}, not as {ours}")
    return saved


def _restore_tree(folder: pathlib.Path, step: int, name: str, abstract: Any) -> Any:
    """Read the requested leaves of a tree, unverified."""
    first_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first_device
        ),
        abstract,
    )
    silence_orbax()
    try:
        # A manager's barriers would wait for a process that failed.
        restored = ocp.PyTreeCheckpointHandler().restore(
            bucket.url_of(folder / str(step) / name),
            args=ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
    except Exception as error:  # tensorstore raises many types for damaged files
        _raise_machine_fault(folder, step, error)
        raise DamagedCheckpoint(
            f"checkpoint {step} in {folder} cannot be read: {first_line(error)}"
        ) from error
    # With damaged metadata of its own, Orbax may return something else without an error.
    arrays = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    if not arrays or leaf_types(restored) != leaf_types(target):
        raise DamagedCheckpoint(
            f"checkpoint {step} in {folder} is damaged: the description of its {name}"
        )
    return restored


def _verify_fingerprints(
    folder: pathlib.Path, step: int, name: str, tree: Any, saved: dict[str, Any]
) -> None:
    ours = fingerprints(tree)
    wrong = sorted(leaf for leaf in ours if ours[leaf] != saved[leaf])
    if wrong:
        raise DamagedCheckpoint(f"checkpoint {step} in {folder} is damaged: {name}{wrong[0]}")


# Errors that a checkpoint with a missing part leads to.
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
# What tensorstore says of a bucket that cannot be read now, and packages whose errors say the same.
_UNREACHABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")
_NETWORK = ("aiohttp", "gcsfs", "google")


def _raise_machine_fault(folder: pathlib.Path, step: int, error: BaseException | None) -> None:
    """Raise if a read failed because of the disk or the memory: the checkpoint may be intact.

    Orbax wraps such errors, and tensorstore reports them as a ValueError with the number in it.
    """
    while error is not None:
        codes = {int(code) for code in re.findall(r"os_error_code='(\d+)'", str(error))}
        if isinstance(error, OSError) and error.errno is not None:
            codes.add(error.errno)
        package = type(error).__module__.partition(".")[0]
        if package in _NETWORK or any(status in str(error) for status in _UNREACHABLE):
            codes.add(errno.EIO)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            codes.add(errno.ENOMEM)
        if codes - _MISSING:
            reason = os.strerror(min(codes - _MISSING))
            raise CheckpointError(
                f"checkpoint {step} in {folder} cannot be read: {reason}: fix that and run again; "
                "nothing was changed"
            ) from error
        error = error.__cause__ or error.__context__


def silence_orbax() -> None:
    """Hide what Orbax logs of every save at INFO, and asyncio's traceback after a failed read."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def fingerprints(tree: Any) -> dict[str, list[Any]]:
    """Return [type, uint32, uint32] of every leaf, by path; every process must call it.

    The type is such as 'float32[3, 4]'. The numbers change with any bit of the leaf and are the
    same on any mesh, as integer sums modulo 2**32 do not depend on the order of summation. Nothing
    is gathered: each device mixes its elements with their index in the whole array, and two sums
    are reduced.
    """
    # One program per shape: XLA takes minutes for one program of all leaves of a large model.
    sums = jax.device_get([_start_fingerprint(leaf) for leaf in jax.tree.leaves(tree)])
    return {
        leaf: [kind, int(first), int(second)]
        for (leaf, kind), (first, second) in zip(leaf_types(tree).items(), sums, strict=True)
    }


def leaf_types(tree: Any) -> dict[str, str]:
    """Return the type and shape of every leaf, by path."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p): f"{leaf.dtype}{list(leaf.shape)}" for p, leaf in flat}


def _start_fingerprint(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return _fingerprint_program(_replicated(leaf))(leaf)
    # Wait for the result, so that a lazy leaf is freed before the next one is read.
    return jax.device_get(_fingerprint_program(None)(np.asarray(leaf)))


def _replicated(leaf: Any) -> NamedSharding | None:
    """Return a sharding that every process of the leaf's mesh can read; None without a mesh."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec())


@functools.cache
def _fingerprint_program(out: NamedSharding | None) -> Any:
    return jax.jit(_fingerprint, out_shardings=out)


def _fingerprint(leaf: jax.Array) -> jax.Array:
    """Return uint32[2]: sums over the elements of two mixes of (bits, row-major index)."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    index = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        stride = jnp.uint32(math.prod(leaf.shape[axis + 1 :]) % 2**32)
        index += stride * jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    first = _mix(bits + _mix(index + jnp.uint32(0x9E3779B9)))
    second = _mix(bits * jnp.uint32(0x9E3779B1) ^ _mix(index + jnp.uint32(0x7F4A7C15)))
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _mix(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """A float32 array that is loaded each time its values are used.

    For models that do not fit in memory twice.
    """

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.load(), dtype)


class _SequentialArrayHandler(ocp.type_handlers.ArrayHandler):
    """Write one leaf to disk before the next is loaded, in the format of a jax.Array."""

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any]
    ) -> Sequence[Any]:
        for value, info, arg in zip(values, infos, args, strict=True):
            await self._write(value, info, arg)
        return []

    async def _write(self, value: Any, info: Any, arg: Any) -> None:
        array = jax.device_put(np.asarray(value))
        for written in await super().serialize([array], [info], [arg]):
            await asyncio.to_thread(written.result)


def lazy_item_handlers() -> dict[str, Any]:
    """Return Orbax's handlers for trees of LazyArrays, by item; they do not save in background."""
    arrays = _SequentialArrayHandler()
    types = [(LazyArray, arrays), (jax.Array, arrays)]
    registry = ocp.type_handlers.create_type_handler_registry(*types)
    tree = functools.partial(ocp.PyTreeCheckpointHandler, type_handler_registry=registry)
    return {"params": tree(), "opt": tree(), "meta": ocp.JsonCheckpointHandler()}
