"""Signs of life: a file's time is renewed while its owner lives, an old file is of a dead one.

Ages compare this machine's clock with times of files, so clocks of the machines that share a folder
must agree far better than STALE; nothing else is assumed of them.

Leases share work between jobs: at most one job of all holds a name (C10).

A lease is a file `<name>.<n>` in a folder that all jobs see, made with O_EXCL, so that of two that
ask at once one gets it. Who takes over from a dead owner makes n + 1, and so can never take away
what another has just taken over. Owners renew their files' time; one that is `stale` seconds old is
dead. On the same machine a lock that the kernel drops with its process tells at once. An owner that
was only asleep must ask `holds` before it commits.

One process at a time does a kind of work in a folder: it holds a lease there.

Without it a command typed twice would have two processes write the same files.

One trainer a run: its lease in the run's folder also tells others that it lives.

Pins keep a checkpoint from deletion while somebody reads it (C10).

Reader and trainer each raise a flag and then look for the other's, so that one of them at least
sees the other: the trainer then leaves the checkpoint, and the reader waits for what it decides.
Flags are files in one folder, listed anew after an own write, as network file systems cache
listings. Every flag's time is renewed while its owner lives; an old one is that of a dead owner.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import tqdm

PIN_STALE = 600.0
"""Seconds without a sign of life, by default; far more than two clocks may differ by."""
BEATS = 20
"""Signs of life in that time."""


def new_owner() -> str:
    """host-process-number: no two owners are ever the same."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def age(path: pathlib.Path) -> float:
    """Seconds since the last sign of life; infinite where the file is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


@contextlib.contextmanager
def renewed_heartbeats(paths: Collection[pathlib.Path], every: float) -> Iterator[None]:
    """Within, a thread renews all files that are in `paths` at that moment, every so many seconds.

    It has stopped when this is left, so that nothing is renewed that is taken back afterwards.
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(every):
            for path in tuple(paths):
                with contextlib.suppress(OSError):
                    os.utime(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


LEASE_STALE = PIN_STALE / 2
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

    def __init__(self, folder: pathlib.Path, stale: float = LEASE_STALE) -> None:
        if not stale > 0:
            raise ValueError(f"leases go stale after a positive number of seconds, not {stale}")
        self.folder, self.stale, self.owner = folder, stale, new_owner()
        self._held: dict[str, pathlib.Path] = {}
        self._locks: dict[str, int] = {}
        self._renewing: Any = None

    def __enter__(self) -> "Leases":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._renewing = renewed_heartbeats(self._held.values(), self.stale / BEATS)
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
    alive = old < told.get("stale", LEASE_STALE) and not _left_by_the_dead(path, told)
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


EXCLUSIVE_STALE = 60.0
"""Seconds without a sign of life after which a process elsewhere is taken for dead."""


@contextlib.contextmanager
def exclusive(
    folder: pathlib.Path, name: str, done: str, stale: float = EXCLUSIVE_STALE, poll: float = 0.2
) -> Iterator[Callable[[], bool]]:
    """Within, this process alone holds the lease `name`; gives what tells whether it still does.

    One that died on another machine is waited for until its lease is `stale` seconds old. One that
    only stood for so long has lost it to whoever came next, and must ask before it commits.

    Args:
        folder: its leases are in `leases/` within.
        name: of the lease.
        done: what is done to the folder, such as "trained", for messages.
        stale: seconds without a sign of life after which an owner elsewhere is taken for dead.
        poll: seconds between two looks.

    Raises:
        ValueError: another owner lives; it gave a sign of life while it was waited for.
    """
    with Leases(folder / "leases", stale) as held:
        youngest = float("inf")
        while not held.take(name):
            if other := holder(folder, name):
                if other.age < youngest < float("inf"):
                    raise ValueError(
                        f"{folder} is being {done} by {other.owner}: stop that process first, or "
                        "let it end"
                    )
                if youngest == float("inf"):
                    tqdm.tqdm.write(f"{folder}: looks whether it is still {done} by {other.owner}")
                youngest = other.age
            time.sleep(poll)
        yield lambda: held.holds(name)


def holder(folder: pathlib.Path, name: str) -> Lease | None:
    """The lease of that name where its owner lives."""
    return next((x for x in leases(folder / "leases") if x.name == name and x.alive), None)


_TRAINER = "trainer"


def exclusive_trainer(
    folder: pathlib.Path, stale: float = EXCLUSIVE_STALE, poll: float = 0.2
) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """Within, this process is the only trainer of that run; see ttoaa/locks.py."""
    return exclusive(folder, _TRAINER, "trained", stale, poll)


def running_trainer(folder: pathlib.Path) -> Lease | None:
    """The lease of the trainer that has that run in hand; None where none does."""
    return holder(folder, _TRAINER)


_PIN_BEAT = PIN_STALE / BEATS


class CheckpointGone(ValueError):
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
            raise CheckpointGone(f"there is no checkpoint {step} in {folder}, or no longer")
        with renewed_heartbeats([own], _PIN_BEAT):
            yield
    finally:
        with contextlib.suppress(OSError):
            own.unlink()


@contextlib.contextmanager
def deletion_flag(folder: pathlib.Path, step: int) -> Iterator[bool]:
    """The trainer's flag: True where nobody reads the checkpoint, and then nobody begins to."""
    flag = _flags(folder) / f"{step}.deleting"
    flag.parent.mkdir(exist_ok=True)
    flag.touch()
    try:
        yield not _fresh(folder, f"{step}@")
    finally:
        flag.unlink(missing_ok=True)


def remove_stale_pins(folder: pathlib.Path) -> None:
    """Takes away the flags of the dead: the trainer calls it when it starts, and has none up."""
    for name in _flag_names(folder):
        if name.endswith(".deleting") or not _fresh(folder, name):
            (_flags(folder) / name).unlink(missing_ok=True)


def _flags(folder: pathlib.Path) -> pathlib.Path:
    return folder / "pins"


def _flag_names(folder: pathlib.Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(_flags(folder))
    return []


def _fresh(folder: pathlib.Path, prefix: str) -> bool:
    """Whether there is a flag of that beginning whose owner lives."""
    return any(
        name.startswith(prefix) and age(_flags(folder) / name) < PIN_STALE
        for name in _flag_names(folder)
    )
