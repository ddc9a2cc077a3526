"""Save a run's checkpoints in the background, restore the newest good one, delete old ones (C12).

With several processes all of them call these functions, in the same order and on the same folder.
The primary process alone renames and deletes; a checkpoint that one process finds damaged is passed
over by all.
"""

import contextlib
import functools
import itertools
import logging
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gin
import jax
import orbax.checkpoint as ocp

from ttoaa import bucket, locks, shared_files
from ttoaa.checksums import with_checksum
from ttoaa.config_fields import Count, PositiveInt, config_class
from ttoaa.training.checkpoint_io import (
    COMMITTED,
    CheckpointError,
    DamagedCheckpoint,
    committed_steps,
    fingerprints,
    lazy_item_handlers,
    on_all_processes,
    read_checkpoint,
    read_meta,
    silence_orbax,
)
from ttoaa.training.multihost import first_line, from_primary
from ttoaa.workdir import check_room

_DISK_FACTOR = 1.1
"""Bytes on disk per byte of arrays, at most; 0.93 was measured for random values."""


@gin.configurable
@config_class
class Keep:
    """Which checkpoints to keep; all if neither `last` nor `every` is set."""

    last: PositiveInt | None = None
    """Keep this many of the newest."""
    every: PositiveInt | None = None
    """Keep those whose step is a multiple of it."""
    milestones: tuple[PositiveInt, ...] = ()
    """Save and keep these steps."""
    per_doubling: Count = 0
    """Save and keep log-spaced steps, this many per doubling of the step: with 1, steps 1, 2, 4, 8,
    … (as Pythia until step 512); with 2, steps 1, 2, 3, 4, 6, 8, 11, …; with 0, none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))

    def saved(self, last: int) -> set[int]:
        """Return the steps up to `last` that are saved and kept in any case."""
        log_spaced = (round(2 ** (k / self.per_doubling)) for k in itertools.count())
        until_last = itertools.takewhile(lambda step: step <= last, log_spaced)
        return {*self.milestones, *(until_last if self.per_doubling else ())}

    def surplus(self, steps: Sequence[int], good: Callable[[int], bool]) -> list[int]:
        """Return the steps of finished checkpoints that may be deleted, of all in ascending order.

        The newest good checkpoint and all after it are kept, and `last` counts good ones only.
        """
        if self.last is None and self.every is None:
            return []
        newest = list(itertools.islice(filter(good, reversed(steps)), self.last or 1))
        kept = self.saved(max(steps, default=0)).union(newest)
        return [
            step
            for step in steps
            if newest
            and step < newest[0]
            and step not in kept
            and not (self.every and step % self.every == 0)
        ]


def delete_checkpoints(folder: pathlib.Path, steps: Sequence[int]) -> None:
    """Delete the checkpoints that no reader has pinned; the others are left for a later call.

    A checkpoint is renamed before its files are removed, so none is ever half there. The next call
    removes what a kill left. In a bucket the file that commits it is deleted first, and Orbax
    removes what a kill left. A failure is logged and does not end the run.
    """
    try:
        for step in steps:
            with locks.deletion_mark(folder, step) as free:
                if free and bucket.find(folder):
                    bucket.delete_folder(folder / str(step), first=COMMITTED)
                elif free:
                    (folder / str(step)).rename(folder / f"deleting-{step}")
        for path in folder.glob("deleting-*"):
            shutil.rmtree(path)
    except OSError as error:
        logging.warning("%s: an old checkpoint cannot be deleted: %s", folder, error)


class Restored(NamedTuple):
    """A checkpoint's trees and meta; `more` has the further trees by name."""

    step: int
    params: Any
    opt: Any
    meta: dict[str, Any]
    more: dict[str, Any]


class CheckpointWriter:
    """The trainer's side: alone in writing to the folder, it also cleans up after kills."""

    def __init__(self, folder: pathlib.Path, keep: Keep | None = None, lazy: bool = False) -> None:
        """Open the folder.

        Args:
            lazy: trees hold LazyArrays, which are loaded one by one; `save` then returns when the
                checkpoint is on disk.
        """
        self.folder = folder
        self.keep = keep or Keep()
        folder.mkdir(parents=True, exist_ok=True)
        from_primary(lambda: locks.remove_stale_pins(folder))
        from_primary(self._warn_of_unfinished)
        silence_orbax()
        self._manager = ocp.CheckpointManager(
            bucket.url_of(folder),
            options=ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True, enable_async_checkpointing=not lazy
            ),
            item_handlers=lazy_item_handlers() if lazy else None,
        )

    def save(self, step: int, params: Any, opt: Any, meta: dict[str, Any], **more: Any) -> None:
        """Start saving in the background, after the previous save and the deletion of old ones.

        Args:
            opt: may be None.
            meta: JSON (its keys: `checkpoint_io.read_meta`) of the primary process; that of other
                processes is ignored.
            more: further trees by name.

        Raises:
            CheckpointError: this or the previous save failed, or the disk is too full.
        """
        self._finish_save()
        trees = {"params": params, **({} if opt is None else {"opt": opt}), **more}
        prints = {name: fingerprints(tree) for name, tree in trees.items()}
        needed = _DISK_FACTOR * sum(leaf.nbytes for leaf in jax.tree.leaves(trees))
        from_primary(lambda: self._check_disk_space(step, needed))
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
        meta_item = ocp.args.JsonSave(with_checksum({**meta, "fingerprints": prints}))
        with self._one_line_errors():
            composite = ocp.args.Composite(**items, meta=meta_item)
            if not self._manager.save(step, args=composite, force=True):
                raise ValueError(f"Orbax refused step {step}")

    def restore_newest(
        self, params: Any, opt: Any, check: Callable[[dict[str, Any]], None], **more: Any
    ) -> Restored | None:
        """Restore the newest good checkpoint, laid out like the abstract trees; None without any.

        Damaged newer ones are renamed and logged.

        Args:
            check: raises for the meta of another run; that checkpoint is left as it is.

        Raises:
            CheckpointError: all checkpoints are damaged, or the newest good one has other trees.
        """
        damaged: dict[str, DamagedCheckpoint] = {}
        for name in from_primary(self._folder_names):
            step = int(name)
            try:
                meta = on_all_processes(functools.partial(read_meta, self.folder, step))
                check(meta)
                trees = read_checkpoint(self.folder, step, params=params, opt=opt, **more)
            except DamagedCheckpoint as error:
                damaged[name] = error
            else:
                from_primary(lambda: self._set_aside(damaged))
                self._manager.reload()
                return Restored(step, trees.pop("params"), trees.pop("opt"), meta, trees)
        if damaged:
            raise CheckpointError(
                f"{self.folder}: all {len(damaged)} checkpoints are damaged, the newest because "
                f"{next(iter(damaged.values()))}: move that folder away to start again"
            )
        return None

    def finish(self) -> None:
        """Wait for the last save, which would be lost otherwise."""
        self._finish_save()
        self._manager.close()

    def _finish_save(self) -> None:
        """Wait until the previous save is on disk, and only then delete older checkpoints."""
        with self._one_line_errors():
            self._manager.wait_until_finished()
        if jax.process_index() == 0:
            steps = committed_steps(self.folder)
            delete_checkpoints(self.folder, self.keep.surplus(steps, self._is_good))

    def _is_good(self, step: int) -> bool:
        """Judge by the meta alone: reading 18 GB at every save would take too long."""
        with contextlib.suppress(CheckpointError):
            return bool(read_meta(self.folder, step))
        return False

    def _folder_names(self) -> list[str]:
        """List all folders named like a checkpoint, newest first."""
        found = [name for name in shared_files.names(self.folder) if name.isdecimal()]
        return sorted(found, key=int, reverse=True)

    def _warn_of_unfinished(self) -> None:
        for path in sorted(self.folder.glob("*.orbax-checkpoint-tmp")):
            logging.warning("%s: an unfinished checkpoint of a killed run, deleted", path)

    def _check_disk_space(self, step: int, needed: float) -> None:
        if bucket.find(self.folder):
            return
        try:
            check_room(
                self.folder, needed, f"a checkpoint of step {step}", "free some, then run again"
            )
        except OSError as error:
            raise CheckpointError(str(error)) from error

    def _set_aside(self, damaged: dict[str, DamagedCheckpoint]) -> None:
        for name, error in damaged.items():
            aside = self.folder / f"damaged-{name}"
            if bucket.find(aside):
                bucket.move_folder(self.folder / name, aside)
            else:
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / name).rename(aside)
            logging.warning("%s; renamed to %s, an older one is used", error, aside.name)

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Raise Orbax's errors, also of a save that started earlier, as one line."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"{self.folder}: a save failed: {first_line(error)}") from error
