"""Which checkpoints stay, and how the others go: only the trainer's primary process deletes.

Checkpoints of a run: saved in the background, the newest good one found again (C12).

With several processes all of them call what stands here, in the same order and on the same
folder: the primary alone renames and deletes, and what one of them finds damaged all pass over.
"""

import contextlib
import dataclasses
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

from ttoaa import locks
from ttoaa.training import checkpoint_io
from ttoaa.training.checkpoint_io import (
    CheckpointError,
    Damaged,
    committed_steps,
    fingerprints,
    newest_meta,
    quiet,
    read,
    read_lazily,
    read_meta,
    seal,
    together,
)
from ttoaa.training.multihost import first_line, from_primary
from ttoaa.workdir import check_room


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Keep:
    """Checkpoints that stay; with neither `last` nor `every`, all do."""

    last: int | None = None
    """So many of the newest."""
    every: int | None = None
    """Those of steps that it divides."""
    milestones: tuple[int, ...] = ()
    """Those of these steps, for ever."""

    def __post_init__(self) -> None:
        for name in ("last", "every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"Keep.{name} must be a positive integer or None, not {value!r}")
        steps = self.milestones
        whole = isinstance(steps, list | tuple) and all(isinstance(s, int) for s in steps)
        if not whole or any(s < 1 for s in steps):
            raise ValueError(f"Keep.milestones must be steps such as (100, 1000), not {steps!r}")
        object.__setattr__(self, "milestones", tuple(steps))

    def surplus(self, steps: Sequence[int], good: Callable[[int], bool]) -> list[int]:
        """Steps of finished checkpoints, ascending, that may go.

        The newest good one and all after it never do, and `last` counts good ones only.
        """
        if self.last is None and self.every is None:
            return []
        newest = list(itertools.islice(filter(good, reversed(steps)), self.last or 1))
        return [
            step
            for step in steps
            if newest
            and step < newest[0]
            and not (step in newest or step in self.milestones)
            and not (self.every and step % self.every == 0)
        ]


def delete(folder: pathlib.Path, steps: Sequence[int]) -> None:
    """Deletes those of the checkpoints that nobody has pinned; the others may go another time.

    A checkpoint loses its name first, in one step: none is ever half there. What a kill leaves
    goes at the next call. A failure is told and does not end the run.
    """
    try:
        for step in steps:
            with locks.deletion_mark(folder, step) as free:
                if free:
                    (folder / str(step)).rename(folder / f"deleting-{step}")
        for path in folder.glob("deleting-*"):
            shutil.rmtree(path)
    except OSError as error:
        logging.warning("%s: an old checkpoint cannot be deleted: %s", folder, error)


__all__ = [
    "CheckpointError",
    "Damaged",
    "Restored",
    "Writer",
    "committed_steps",
    "newest_meta",
    "read",
    "read_lazily",
    "read_meta",
]

_ROOM = 1.1
"""Bytes on disk for one byte of arrays at most: 0.93 was measured, for noise."""


class Restored(NamedTuple):
    step: int
    params: Any
    opt: Any
    meta: dict[str, Any]
    more: dict[str, Any]


class Writer:
    """The trainer's side: the only one that writes into the folder, and cleans up after kills."""

    def __init__(
        self, folder: pathlib.Path, keep: Keep | None = None, lazily: bool = False
    ) -> None:
        """`lazily`: leaves are Lazy, in memory one by one, and a save is done when it returns."""
        self.folder = folder
        self.keep = keep or Keep()
        folder.mkdir(parents=True, exist_ok=True)
        from_primary(lambda: locks.remove_stale_pins(folder))
        from_primary(self._name_unfinished)
        self._manager = _manager(folder, lazily)

    def save(self, step: int, params: Any, opt: Any, meta: dict[str, Any], **more: Any) -> None:
        """Begins to save in the background, once an earlier save is done and old ones are gone.

        An earlier one that failed is raised here. `opt` may be None, `more` are further trees by
        name. The meta that is kept is the primary's.
        """
        self._settle()
        items = {"params": params, **({} if opt is None else {"opt": opt}), **more}
        prints = {name: fingerprints(tree) for name, tree in items.items()}
        needed = _ROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(items))
        from_primary(lambda: self._check_room(step, needed))
        args = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
        sealed = ocp.args.JsonSave(seal({**meta, "fingerprints": prints}))
        with self._told():
            composite = ocp.args.Composite(**args, meta=sealed)
            if not self._manager.save(step, args=composite, force=True):
                raise ValueError(f"Orbax refused step {step}")

    def restore_newest(
        self, params: Any, opt: Any, check: Callable[[dict[str, Any]], None], **more: Any
    ) -> Restored | None:
        """The newest good checkpoint, like the abstract trees given.

        Damaged newer ones are renamed, so that nothing counts them again, and named in the log;
        where none is good it is an error, and None only where there never was one. `check` raises
        for the meta of a good one that is another run's: that one is left as it is.
        """
        damaged: dict[str, Damaged] = {}
        for name in from_primary(self._names):
            step = int(name)
            try:
                meta = together(functools.partial(read_meta, self.folder, step))
                check(meta)
                restored = read(self.folder, step, params=params, opt=opt, **more)
            except Damaged as error:
                damaged[name] = error
            else:
                from_primary(lambda: self._set_aside(damaged))
                self._manager.reload()
                return Restored(step, restored.pop("params"), restored.pop("opt"), meta, restored)
        if damaged:
            raise CheckpointError(
                f"{self.folder}: of {len(damaged)} checkpoints none is good, the newest because "
                f"{next(iter(damaged.values()))}: move that folder away to start anew"
            )
        return None

    def finish(self) -> None:
        """Waits for the last save; without it the save would be lost and no one told."""
        self._settle()
        self._manager.close()

    def _settle(self) -> None:
        """Once the save before is on disk, and not earlier, others may go."""
        with self._told():
            self._manager.wait_until_finished()
        if jax.process_index() == 0:
            steps = committed_steps(self.folder)
            delete(self.folder, self.keep.surplus(steps, self._is_good))

    def _is_good(self, step: int) -> bool:
        """As far as its meta tells: reading 18 GB at every save would be too much."""
        with contextlib.suppress(CheckpointError):
            return bool(read_meta(self.folder, step))
        return False

    def _names(self) -> list[str]:
        """All that looks like a checkpoint, newest first."""
        found = [path.name for path in self.folder.iterdir() if path.name.isdecimal()]
        return sorted(found, key=int, reverse=True)

    def _name_unfinished(self) -> None:
        for path in sorted(self.folder.glob("*.orbax-checkpoint-tmp")):
            logging.warning("%s: a save that a kill cut short, deleted", path)

    def _check_room(self, step: int, needed: float) -> None:
        try:
            check_room(
                self.folder, needed, f"a checkpoint of step {step}", "free some, then run again"
            )
        except OSError as error:
            raise CheckpointError(str(error)) from error

    def _set_aside(self, damaged: dict[str, Damaged]) -> None:
        for name, error in damaged.items():
            aside = self.folder / f"damaged-{name}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / name).rename(aside)
            logging.warning("%s; set aside as %s, an older one is taken", error, aside.name)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What Orbax raises for a save, perhaps one begun earlier, as one line."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"{self.folder}: a save failed: {first_line(error)}") from error


def _manager(folder: pathlib.Path, lazily: bool) -> ocp.CheckpointManager:
    quiet()
    return ocp.CheckpointManager(
        folder.resolve(),
        options=ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True, enable_async_checkpointing=not lazily
        ),
        item_handlers=checkpoint_io.handlers() if lazily else None,
    )
