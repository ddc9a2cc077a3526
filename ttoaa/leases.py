"""Leases share work between jobs: at most one job of all holds a name (C10).

A lease is a file `<name>.<n>` in a folder that all jobs see, made with O_EXCL, so that of two that
ask at once one gets it. Who takes over from a dead owner makes n + 1, and so can never take away
what another has just taken over. Owners renew their files' time; one that is `stale` seconds old is
dead. On the same machine a lock that the kernel drops with its process tells at once. An owner that
was only asleep must ask `holds` before it commits.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ttoaa import heartbeat
from ttoaa.heartbeat import BEATS, age, new_owner, renewing

STALE = heartbeat.STALE / 2
"""Sooner than pins: who takes over from a dead job still finds its checkpoint."""


class Lease(NamedTuple):
    """A lease as others see it."""

    name: str
    owner: str
    since: float
    """time.time() on its owner's machine when it was taken."""
    age: float
    """Seconds since its owner's last sign of life."""
    alive: bool


class Leases:
    """What one job holds; a context, at whose end all is dropped."""

    def __init__(self, folder: pathlib.Path, stale: float = STALE) -> None:
        if not stale > 0:
            raise ValueError(f"leases go stale after a positive number of seconds, not {stale}")
        self.folder, self.stale, self.owner = folder, stale, new_owner()
        self._held: dict[str, pathlib.Path] = {}
        self._locks: dict[str, int] = {}
        self._renewing: Any = None

    def __enter__(self) -> "Leases":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._renewing = renewing(self._held.values(), self.stale / BEATS)
        self._renewing.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._renewing.__exit__(None, None, None)
        for name in list(self._held):
            self.drop(name)

    def take(self, name: str) -> bool:
        """Whether the lease is this job's now; nobody waits."""
        newest = _newest(self.folder, name)
        if newest and _read(newest).alive:
            return False
        path = self.folder / f"{name}.{1 + _number(newest) if newest else 0}"
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            self._sign(file)
            # Looked at anew: what was listed above may be old, and lead to a number that was free.
            others = [other for other in _of(self.folder, name) if other != path]
            lost = any(_read(other).alive for other in others)
        except OSError as error:
            _withdraw(path, file)
            raise OSError(error.errno, error.strerror, str(path)) from error
        if lost:
            _withdraw(path, file)
            return False
        self._held[name], self._locks[name] = path, file
        return True

    def _sign(self, file: int) -> None:
        told = {"owner": self.owner, "since": time.time(), "stale": self.stale}
        with contextlib.suppress(OSError):  # a file system without locks: signs of life remain
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            told["boot"] = _boot(os.fstat(file))
        os.write(file, json.dumps(told).encode())  # after the lock, so whoever reads it may test it

    def holds(self, name: str) -> bool:
        """Whether it is still this job's, and no one has thought it dead."""
        path = self._held.get(name)
        return bool(path and _newest(self.folder, name) == path and self._is_own(path))

    def drop(self, name: str) -> None:
        """Gives up a lease that was taken, and clears away those of the dead before it."""
        path = self._held.pop(name)
        try:
            if self._is_own(path):
                for older in sorted(_of(self.folder, name), key=_number):
                    if _number(older) <= _number(path):
                        older.unlink(missing_ok=True)
        finally:
            os.close(self._locks.pop(name))

    def sweep(self) -> None:
        """Clears away the leases of the dead."""
        for lease in leases(self.folder):
            if not lease.alive and self.take(lease.name):
                self.drop(lease.name)

    def of_others(self) -> list[Lease]:
        """Those of other jobs that live."""
        return [x for x in leases(self.folder) if x.alive and x.owner != self.owner]

    def _is_own(self, path: pathlib.Path) -> bool:
        return _told(path).get("owner") == self.owner


def leases(folder: pathlib.Path) -> list[Lease]:
    """The newest of every name, by name."""
    names = sorted({path.stem for path in _files(folder)})
    newest = (_newest(folder, name) for name in names)
    return [_read(path) for path in newest if path]


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    names = os.listdir(folder) if folder.is_dir() else []
    return (folder / name for name in names if re.search(r"\.\d+$", name))


def _of(folder: pathlib.Path, name: str) -> list[pathlib.Path]:
    return [path for path in _files(folder) if path.stem == name]


def _number(path: pathlib.Path) -> int:
    return int(path.suffix[1:])


def _newest(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    return max(_of(folder, name), key=_number, default=None)


def _read(path: pathlib.Path) -> Lease:
    told, old = _told(path), age(path)
    alive = old < told.get("stale", STALE) and not _left_by_the_dead(path, told)
    return Lease(path.stem, told.get("owner", "unknown"), told.get("since", 0.0), old, alive)


def _told(path: pathlib.Path) -> dict[str, Any]:
    """What the owner wrote; empty for a moment, or where a kill came between."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _left_by_the_dead(path: pathlib.Path, told: dict[str, Any]) -> bool:
    """Whether the owner ran under this very kernel and its lock is gone."""
    try:
        with open(path, "rb") as file:
            if not told.get("boot") or told["boot"] != _boot(os.fstat(file.fileno())):
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _withdraw(path: pathlib.Path, file: int) -> None:
    path.unlink(missing_ok=True)
    os.close(file)


def _boot(file: os.stat_result) -> str:
    """Names the running kernel and the file's mount; empty where the kernel has no name.

    Two mounts of one network folder need not see each other's locks.
    """
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {file.st_dev}"
    return ""
