"""A checkpoint as it lies on disk: an Orbax item a tree, and a sealed meta beside them (C12).

Orbax restores flipped bytes as wrong numbers without a word. So the meta has a fingerprint of
every leaf, and a hash of itself.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from ttoaa.training.agreement import gather
from ttoaa.training.fingerprints import fingerprints, kinds
from ttoaa.training.streamed import Lazy
from ttoaa.workdir import read_json

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


def first_line(error: BaseException) -> str:
    """Orbax's errors run over pages; the first line says what it is."""
    return next(iter(str(error).strip().splitlines()), repr(error))[:200]


def quiet() -> None:
    """Orbax tells of every phase of every save at INFO, and a read that fails leaves pages of
    asyncio's; what matters is said here."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
