"""Trees that pass through memory leaf by leaf, for models that would not fit in it twice.

A fingerprint of every leaf of a tree: the same on any mesh, another where one bit is.

Integer sums modulo 2**32 do not depend on the order of summation. Nothing is gathered: a device
mixes each of its elements with the element's index in the whole array, and two sums are reduced.

A checkpoint as it lies on disk: an Orbax item a tree, and a sealed meta beside them (C12).

Orbax restores flipped bytes as wrong numbers without a word. So the meta has a fingerprint of
every leaf, and a hash of itself.
"""

import asyncio
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
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

from ttoaa.training.multihost import first_line, gather
from ttoaa.workdir import read_json

_TREES = ("params", "opt")


@dataclasses.dataclass(frozen=True)
class Lazy:
    """A float32 array that is read anew whenever its values are asked for."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


class _OneByOne(ocp.type_handlers.ArrayHandler):
    """Each leaf is on disk before the next is read; what is stored is that of a jax.Array."""

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any]
    ) -> Sequence[Any]:
        for value, info, arg in zip(values, infos, args, strict=True):
            await self._finish(value, info, arg)
        return []

    async def _finish(self, value: Any, info: Any, arg: Any) -> None:
        array = jax.device_put(np.asarray(value))
        for written in await super().serialize([array], [info], [arg]):
            await asyncio.to_thread(written.result)


def handlers() -> dict[str, Any]:
    """Orbax's for a checkpoint whose leaves may be Lazy, by item; not for the background."""
    leaves = _OneByOne()
    registry = ocp.type_handlers.create_type_handler_registry((Lazy, leaves), (jax.Array, leaves))
    trees = {n: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for n in _TREES}
    return {**trees, "meta": ocp.JsonCheckpointHandler()}


def fingerprints(tree: Any) -> dict[str, list[Any]]:
    """[kind, uint32, uint32] of every leaf, by path; every process must call it, all get the same.

    The kind is type and shape, such as 'float32[3, 4]'.
    """
    # A program for each shape, not one of all leaves: that takes XLA minutes for a large model.
    sums = jax.device_get([_begin(leaf) for leaf in jax.tree.leaves(tree)])
    return {
        leaf: [kind, int(first), int(second)]
        for (leaf, kind), (first, second) in zip(kinds(tree).items(), sums, strict=True)
    }


def _begin(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return _program(_everywhere(leaf))(leaf)
    # Perhaps read only when it is asked for: it is gone again before the next one is.
    return jax.device_get(_program(None)(np.asarray(leaf)))


def kinds(tree: Any) -> dict[str, str]:
    """Type and shape of every leaf, by path."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p): f"{leaf.dtype}{list(leaf.shape)}" for p, leaf in flat}


def _everywhere(leaf: Any) -> NamedSharding | None:
    """On all devices of the leaf's mesh, so that every process can read it; None without a mesh."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec())


@functools.cache
def _program(out: NamedSharding | None) -> Any:
    return jax.jit(_sums, out_shardings=out)


def _sums(leaf: jax.Array) -> jax.Array:
    """uint32[2]: sums over the elements of two mixes of (value's bits, row-major index)."""
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


T = TypeVar("T")
_META = ("meta", "metadata")
_SEAL = "sha256"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or is of another tree than asked."""


class Damaged(CheckpointError):
    """A checkpoint that is missing, unfinished or not as it was saved."""


def committed_steps(folder: pathlib.Path) -> list[int]:
    """Steps of finished checkpoints, ascending. Orbax commits one by a rename of its folder."""
    found = [p for p in folder.glob("*") if p.name.isdecimal() and p.joinpath(*_META).exists()]
    return sorted(int(path.name) for path in found)


def read(folder: pathlib.Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Items of one checkpoint, each like its abstract tree, checked against its fingerprints.

    Leaves are laid out as the tree's shardings say, whatever they were saved from; without one,
    on the first device. `read(folder, step, params=tree)` reads parameters alone. Raises
    CheckpointError, and Damaged where the fault is the checkpoint's own, on all processes alike.
    """

    def restore() -> tuple[dict[str, Any], dict[str, Any]]:
        """No process waits for another in here."""
        prints = _prints(folder, step, abstract)
        return prints, {name: _restore(folder, step, name, abstract[name]) for name in abstract}

    prints, restored = together(restore)
    for name, tree in restored.items():
        _check(folder, step, name, tree, prints[name])
    return restored


def read_lazily(folder: pathlib.Path, step: int, name: str, abstract: dict[str, Any]) -> Any:
    """One item of nested dicts, of one process, each leaf read and checked when it is asked for.

    Raises as `read` does: here for what is missing or another tree, a leaf for its own values.
    """
    prints = _prints(folder, step, {name: abstract})[name]

    def lazy(path: tuple[Any, ...], leaf: Any) -> Lazy:
        alone = leaf
        for part in reversed(path):
            alone = {part.key: alone}

        def values() -> np.ndarray:
            tree = _restore(folder, step, name, alone)
            _check(folder, step, name, tree, prints)
            return np.asarray(jax.tree.leaves(tree)[0])

        return Lazy(leaf.shape, values)

    return jax.tree_util.tree_map_with_path(lazy, abstract)


def _prints(folder: pathlib.Path, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """Fingerprints of the leaves of every item; CheckpointError where the trees are others."""
    prints = read_meta(folder, step)["fingerprints"]
    for name, tree in abstract.items():
        _check_kinds(f"checkpoint {step} in {folder}", name, tree, prints.get(name, {}))
    return prints


def _check(folder: pathlib.Path, step: int, name: str, tree: Any, prints: dict[str, Any]) -> None:
    ours = fingerprints(tree)
    wrong = sorted(leaf for leaf in ours if ours[leaf] != prints[leaf])
    if wrong:
        raise Damaged(f"checkpoint {step} in {folder} is damaged: {name}{wrong[0]}")


def _restore(folder: pathlib.Path, step: int, name: str, abstract: Any) -> Any:
    """As it lies there: the leaves of an item that are asked for."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here
        ),
        abstract,
    )
    quiet()
    try:
        # Not through a manager, whose barriers would wait for a process that failed.
        found = ocp.PyTreeCheckpointHandler().restore(
            (folder / str(step) / name).resolve(),
            args=ocp.args.PyTreeRestore(
                wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            ),
        )
    except Exception as error:  # tensorstore raises many kinds for damaged files
        _raise_fault_of_machine(folder, step, error)
        raise Damaged(
            f"checkpoint {step} in {folder} cannot be read: {first_line(error)}"
        ) from error
    # Where Orbax's own notes on an item are damaged it may return something else without a word.
    arrays = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    if not arrays or kinds(found) != kinds(wanted):
        raise Damaged(f"checkpoint {step} in {folder} is damaged: the description of its {name}")
    return found


def together(action: Callable[[], T]) -> T:
    """The action on every process; what failed on one fails on all, a machine's fault first."""
    value, fault = None, None
    try:
        value = action()
    except CheckpointError as error:
        fault = error
    told = gather(f"{isinstance(fault, Damaged):d}{fault}" if fault else "")
    worst = min(filter(None, told), default=None)
    if worst is None:
        return value  # type: ignore[return-value]
    if fault and worst[1:] == str(fault):
        raise fault
    raise (Damaged if worst[0] == "1" else CheckpointError)(worst[1:])


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """What was saved beside the arrays; raises Damaged where a byte of it changed."""
    try:
        meta = read_json(folder.joinpath(str(step), *_META))
        whole = meta == seal({k: v for k, v in meta.items() if k != _SEAL})
    except (OSError, ValueError, AttributeError) as error:
        _raise_fault_of_machine(folder, step, error)
        raise Damaged(f"checkpoint {step} in {folder} has no meta: {error}") from error
    if not whole:
        raise Damaged(f"checkpoint {step} in {folder} is damaged: its meta")
    return meta


# What a checkpoint of which a part is missing leads to.
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


def _raise_fault_of_machine(folder: pathlib.Path, step: int, error: BaseException | None) -> None:
    """Raises where a read failed by a disk or by memory: the checkpoint may well be whole.

    Orbax wraps such errors, and tensorstore tells them as a ValueError with the number in it.
    """
    while error is not None:
        codes = {int(code) for code in re.findall(r"os_error_code='(\d+)'", str(error))}
        if isinstance(error, OSError) and error.errno is not None:
            codes.add(error.errno)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            codes.add(errno.ENOMEM)
        if codes - _MISSING:
            reason = os.strerror(min(codes - _MISSING))
            raise CheckpointError(
                f"checkpoint {step} in {folder} cannot be read: {reason}: see to that and run "
                "again, nothing was changed"
            ) from error
        error = error.__cause__ or error.__context__


def newest_meta(folder: pathlib.Path) -> dict[str, Any] | None:
    """The meta of the newest checkpoint whose meta is whole."""
    for step in reversed(committed_steps(folder)):
        with contextlib.suppress(Damaged):
            return read_meta(folder, step)
    return None


def seal(meta: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(meta, sort_keys=True)
    return {**meta, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


def _check_kinds(checkpoint: str, name: str, tree: Any, prints: dict[str, Any]) -> None:
    if not prints:
        raise CheckpointError(f"{checkpoint} holds no {name}")
    asked, saved = kinds(tree), {leaf: print_[0] for leaf, print_ in prints.items()}
    for leaf in sorted({*asked, *saved}):
        ours, theirs = asked.get(leaf, "nothing"), saved.get(leaf, "nothing")
        if ours != theirs:
            # Orbax would cast another type without a word.
            raise CheckpointError(f"{checkpoint} holds {name}{leaf} as {theirs}, not as {ours}")


def quiet() -> None:
    """Orbax tells of every phase of every save at INFO, and a read that fails leaves pages of
    asyncio's; what matters is said here."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
