"""Pins keep a checkpoint from deletion while somebody reads it (C10).

Reader and trainer each raise a flag and then look for the other's, so that one of them at least
sees the other: the trainer then leaves the checkpoint, and the reader waits for what it decides.
Flags are files in one folder, listed anew after an own write, as network file systems cache
listings. Every flag's time is renewed while its owner lives; an old one is that of a dead owner.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator

from ttoaa.heartbeat import BEATS, STALE, age, new_owner, renewing

_BEAT = STALE / BEATS


class Gone(ValueError):
    """A checkpoint that is not there, perhaps no longer."""


@contextlib.contextmanager
def pin(folder: pathlib.Path, step: int) -> Iterator[None]:
    """Within, the checkpoint stays; raises Gone where it is not there.

    A folder that may not be written to is read without a pin: its trainer's deletions, if it has
    any, are seen as a checkpoint that cannot be read.
    """
    own = _flags(folder) / f"{step}@{new_owner()}"
    try:
        with contextlib.suppress(OSError):
            own.parent.mkdir(exist_ok=True)
            own.touch()
        while _fresh(folder, f"{step}.deleting"):
            time.sleep(0.01)
        if not (folder / str(step)).is_dir():
            raise Gone(f"there is no checkpoint {step} in {folder}, or no longer")
        with renewing([own], _BEAT):
            yield
    finally:
        with contextlib.suppress(OSError):
            own.unlink()


@contextlib.contextmanager
def deleting(folder: pathlib.Path, step: int) -> Iterator[bool]:
    """The trainer's flag: True where nobody reads the checkpoint, and then nobody begins to."""
    flag = _flags(folder) / f"{step}.deleting"
    flag.parent.mkdir(exist_ok=True)
    flag.touch()
    try:
        yield not _fresh(folder, f"{step}@")
    finally:
        flag.unlink(missing_ok=True)


def sweep(folder: pathlib.Path) -> None:
    """Takes away the flags of the dead: the trainer calls it when it starts, and has none up."""
    for name in _names(folder):
        if name.endswith(".deleting") or not _fresh(folder, name):
            (_flags(folder) / name).unlink(missing_ok=True)


def _flags(folder: pathlib.Path) -> pathlib.Path:
    return folder / "pins"


def _names(folder: pathlib.Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(_flags(folder))
    return []


def _fresh(folder: pathlib.Path, prefix: str) -> bool:
    """Whether there is a flag of that beginning whose owner lives."""
    return any(
        name.startswith(prefix) and age(_flags(folder) / name) < STALE for name in _names(folder)
    )
