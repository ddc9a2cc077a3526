"""Checkpoints through Orbax, with what Orbax leaves out: a fingerprint of every leaf (C12).

Orbax restores flipped bytes as wrong numbers without a word, and takes any folder with an integer
name for a checkpoint. So each one carries its own fingerprints, and one that fails is set aside.
"""

import logging
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ttoaa.workdir import read_json

_META = ("meta", "metadata")


class CheckpointError(ValueError):
    """A checkpoint that is missing, unfinished or damaged."""


class Writer:
    """The trainer's side: the only one that writes into the folder, and cleans up after kills."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = _manager(folder, cleanup_tmp_directories=True)

    def save(self, step: int, params: Any, opt: Any, meta: dict[str, Any]) -> None:
        """Begins to save in the background; an earlier save that failed is raised here."""
        if not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()  # raises what failed in the background
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
            meta=ocp.args.JsonSave({**meta, "fingerprints": prints}),
        )
        if not self._manager.save(step, args=args, force=True):
            raise CheckpointError(f"Orbax refused to save step {step} in {self.folder}")

    def restore_newest(self, params: Any, opt: Any) -> tuple[int, Any, Any, dict[str, Any]] | None:
        """(step, params, opt, meta) of the newest good checkpoint, like the abstract trees given.

        Damaged ones are renamed, so that nothing counts them again, and named in the log.
        """
        for step in reversed(committed_steps(self.folder)):
            try:
                restored = read(self.folder, step, params=params, opt=opt)
                return step, restored["params"], restored["opt"], read_meta(self.folder, step)
            except CheckpointError as error:
                aside = self.folder / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
                logging.warning("%s; set aside as %s, trying an older one", error, aside.name)
        self._manager.reload()
        return None

    def reload(self) -> None:
        self._manager.reload()

    def finish(self) -> None:
        """Waits for the last save; without it the save would be lost and no one told."""
        self._manager.wait_until_finished()
        self._manager.close()


def committed_steps(folder: pathlib.Path) -> list[int]:
    """Steps of finished checkpoints, ascending. Orbax commits one by a rename of its folder."""
    found = [p for p in folder.glob("*") if p.name.isdecimal() and p.joinpath(*_META).exists()]
    return sorted(int(path.name) for path in found)


def read(folder: pathlib.Path, step: int, **abstract: Any) -> dict[str, Any]:
    """Items of one checkpoint, each like its abstract tree, checked against its fingerprints.

    `read(folder, step, params=tree)` reads parameters alone. Raises CheckpointError.
    """
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
        prints = read_meta(folder, step)["fingerprints"]
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = manager.restore(step, args=ocp.args.Composite(**args))
    except CheckpointError:
        raise
    except Exception as error:  # tensorstore raises many kinds for damaged files
        first = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(f"checkpoint {step} in {folder} cannot be read: {first}") from error
    finally:
        manager.close()
    for name in wanted:
        ours = fingerprints(restored[name])
        wrong = sorted(leaf for leaf in ours if ours[leaf] != prints[name].get(leaf))
        if wrong:
            raise CheckpointError(f"checkpoint {step} in {folder} is damaged: {name}{wrong[0]}")
    return {name: restored[name] for name in wanted}


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    try:
        return read_json(folder.joinpath(str(step), *_META))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {step} in {folder} has no meta: {error}") from error


def fingerprints(tree: Any) -> dict[str, list[int]]:
    """Two uint32 for every leaf, by path: equal on any mesh, changed by one unit in one place."""
    flat = jax.tree_util.tree_flatten_with_path(_fingerprint_tree(tree))[0]
    return {jax.tree_util.keystr(path): [int(x) for x in print_] for path, print_ in flat}


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


def _manager(folder: pathlib.Path, **options: bool) -> ocp.CheckpointManager:
    # Orbax tells of every phase of every save at INFO; what matters is said here.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp.CheckpointManager(
        folder.resolve(),
        options=ocp.CheckpointManagerOptions(**options),
        item_names=("params", "opt", "meta"),
    )
