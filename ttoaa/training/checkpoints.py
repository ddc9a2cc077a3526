"""Checkpoints through Orbax, with what Orbax leaves out: a fingerprint of every leaf (C12).

Orbax restores flipped bytes as wrong numbers without a word, and takes any folder with an integer
name for a checkpoint. So each one carries its own fingerprints, and one that fails is set aside.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ttoaa.workdir import read_json

_META = ("meta", "metadata")
_SEAL = "sha256"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or is of another tree than asked."""


class Damaged(CheckpointError):
    """A checkpoint that is missing, unfinished or not as it was saved."""


class Writer:
    """The trainer's side: the only one that writes into the folder, and cleans up after kills."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = _manager(folder, cleanup_tmp_directories=True)

    def save(self, step: int, params: Any, opt: Any, meta: dict[str, Any]) -> None:
        """Begins to save in the background; an earlier save that failed is raised here."""
        prints = {"params": fingerprints(params), "opt": fingerprints(opt)}
        needed = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves((params, opt)))
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise CheckpointError(
                f"{self.folder} has {free / 1e9:.2f} GB free, a checkpoint of step {step} may "
                f"need {needed / 1e9:.2f}: free some and run again, it resumes"
            )
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            opt=ocp.args.StandardSave(opt),
            meta=ocp.args.JsonSave(_sealed({**meta, "fingerprints": prints})),
        )
        with self._told():
            if not self._manager.is_saving_in_progress():
                self._manager.wait_until_finished()  # raises what failed in the background
            if not self._manager.save(step, args=args, force=True):
                raise ValueError(f"Orbax refused step {step}")

    def restore_newest(
        self, params: Any, opt: Any, check: Callable[[dict[str, Any]], None]
    ) -> tuple[int, Any, Any, dict[str, Any]] | None:
        """(step, params, opt, meta) of the newest good checkpoint, like the abstract trees given.

        Damaged newer ones are renamed, so that nothing counts them again, and named in the log;
        where none is good it is an error, and None only where there never was one. `check` raises
        for the meta of a good one that is another run's: that one is left as it is.
        """
        damaged: dict[pathlib.Path, Damaged] = {}
        found = (path for path in self.folder.iterdir() if path.name.isdecimal())
        for path in sorted(found, key=lambda path: int(path.name), reverse=True):
            step = int(path.name)
            try:
                meta = read_meta(self.folder, step)
                check(meta)
                restored = read(self.folder, step, params=params, opt=opt)
            except Damaged as error:
                damaged[path] = error
            else:
                self._set_aside(damaged)
                return step, restored["params"], restored["opt"], meta
        if damaged:
            raise CheckpointError(
                f"{self.folder}: of {len(damaged)} checkpoints none is good, the newest because "
                f"{next(iter(damaged.values()))}: move that folder away to start anew"
            )
        return None

    def _set_aside(self, damaged: dict[pathlib.Path, Damaged]) -> None:
        for path, error in damaged.items():
            aside = self.folder / f"damaged-{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logging.warning("%s; set aside as %s, an older one is taken", error, aside.name)
        self._manager.reload()

    def finish(self) -> None:
        """Waits for the last save; without it the save would be lost and no one told."""
        with self._told():
            self._manager.wait_until_finished()
        self._manager.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What Orbax raises for a save, perhaps one begun earlier, as one line."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"{self.folder}: a save failed: {_line(error)}") from error


def committed_steps(folder: pathlib.Path) -> list[int]:
    """Steps of finished checkpoints, ascending. Orbax commits one by a rename of its folder."""
    found = [p for p in folder.glob("*") if p.name.isdecimal() and p.joinpath(*_META).exists()]
    return sorted(int(path.name) for path in found)


def read(folder: pathlib.Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Items of one checkpoint, each like its abstract tree, checked against its fingerprints.

    `read(folder, step, params=tree)` reads parameters alone. Raises CheckpointError, and Damaged
    where the fault is the checkpoint's own.
    """
    prints = read_meta(folder, step)["fingerprints"]
    for name, tree in abstract.items():
        _check_kinds(f"checkpoint {step} in {folder}", name, tree, prints[name])
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {
        name: jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here
            ),
            tree,
        )
        for name, tree in abstract.items()
    }
    manager = _manager(folder, read_only=True)
    try:
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:  # tensorstore raises many kinds for damaged files
        _raise_fault_of_machine(folder, step, error)
        raise Damaged(f"checkpoint {step} in {folder} cannot be read: {_line(error)}") from error
    finally:
        manager.close()
    for name in wanted:
        ours = fingerprints(restored[name])
        wrong = sorted(leaf for leaf in ours if ours[leaf] != prints[name][leaf])
        if wrong:
            raise Damaged(f"checkpoint {step} in {folder} is damaged: {name}{wrong[0]}")
    return {name: restored[name] for name in wanted}


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """What was saved beside the arrays; raises Damaged where a byte of it changed."""
    try:
        meta = read_json(folder.joinpath(str(step), *_META))
        whole = meta == _sealed({k: v for k, v in meta.items() if k != _SEAL})
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


def _sealed(meta: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(meta, sort_keys=True)
    return {**meta, _SEAL: hashlib.sha256(text.encode()).hexdigest()}


def fingerprints(tree: Any) -> dict[str, list[Any]]:
    """[kind, uint32, uint32] of every leaf, by path: equal on any mesh, changed by one ulp."""
    numbers = jax.tree.leaves(_fingerprint_tree(tree))
    kinds = _kinds(tree).items()
    return {leaf: [kind, *map(int, n)] for (leaf, kind), n in zip(kinds, numbers, strict=True)}


def _kinds(tree: Any) -> dict[str, str]:
    """Type and shape of every leaf, such as 'float32[3, 4]'."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p): f"{leaf.dtype}{list(leaf.shape)}" for p, leaf in flat}


def _check_kinds(checkpoint: str, name: str, tree: Any, prints: dict[str, Any]) -> None:
    asked, saved = _kinds(tree), {leaf: print_[0] for leaf, print_ in prints.items()}
    for leaf in sorted({*asked, *saved}):
        ours, theirs = asked.get(leaf, "nothing"), saved.get(leaf, "nothing")
        if ours != theirs:
            # Orbax would cast another type without a word.
            raise CheckpointError(f"{checkpoint} holds {name}{leaf} as {theirs}, not as {ours}")


@jax.jit
def _fingerprint_tree(tree: Any) -> Any:
    return jax.tree.map(_fingerprint, tree)


def _fingerprint(leaf: jax.Array) -> jax.Array:
    """Sums over elements of mixed (value bits, index), modulo 2**32: integers, so order is free."""
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).ravel()
    index = jax.lax.iota(jnp.uint32, bits.size)
    first = _mix(bits + _mix(index + jnp.uint32(0x9E3779B9)))
    second = _mix(bits * jnp.uint32(0x9E3779B1) ^ _mix(index + jnp.uint32(0x7F4A7C15)))
    return jnp.stack([first.sum(dtype=jnp.uint32), second.sum(dtype=jnp.uint32)])


def _mix(h: jax.Array) -> jax.Array:
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _line(error: Exception) -> str:
    """Orbax's errors run over pages; the first line says what it is."""
    return next(iter(str(error).strip().splitlines()), repr(error))[:200]


def _manager(folder: pathlib.Path, **options: bool) -> ocp.CheckpointManager:
    # Orbax tells of every phase of every save at INFO, and a read that fails leaves pages of
    # asyncio's; what matters is said here.
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return ocp.CheckpointManager(
        folder.resolve(),
        options=ocp.CheckpointManagerOptions(**options),
        item_names=("params", "opt", "meta"),
    )
