"""Locks between the processes, on one machine or several, that share a study's folder.

Every lock is a file, or an object in a bucket (`ttoaa.shared_files`). Its owner renews the file's
modification time, or writes the object again, which is the owner's heartbeat; a file whose
heartbeat is too old is stale, and its owner counts as dead. On this come:

- lease: of all jobs that share a folder, at most one holds a name (contract C10).
- exclusive lock: a lease that a process waits for if its holder may be dead, and is refused
  otherwise. `prepare` and the trainer of a run each hold one.
- pin: keeps a checkpoint from deletion while a process reads it (contract C10).

Ages compare this machine's clock with modification times, so the clocks of machines that share a
folder must agree far better than the limits below. Nothing else is assumed of them.
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

from ttoaa import bucket, shared_files, signals
from ttoaa.workdir import is_of_dead_process, lock_while_open

PIN_STALE = 600.0
"""Seconds without a heartbeat after which a pin is stale."""
LEASE_STALE = 300.0
"""The same for a lease, by default. Shorter, so that a dead job's checkpoint is still pinned when
another job takes over its work."""
EXCLUSIVE_STALE = 60.0
"""The same for an exclusive lock, by default."""
_HEARTBEATS = 20  # in the time after which a file is stale


def _new_owner() -> str:
    """Return host-pid-random: two owners never have the same name."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _heartbeat_age(path: pathlib.Path) -> float:
    """Return the seconds since the last heartbeat; infinite for a missing file."""
    return shared_files.age(path)


@contextlib.contextmanager
def _heartbeat(paths: Collection[pathlib.Path], stale: float) -> Iterator[None]:
    """Renew the files that `paths` has at each beat, in a thread that ends with the context."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(stale / _HEARTBEATS):
            for path in tuple(paths):
                with contextlib.suppress(OSError, KeyError):  # just released, or of others now
                    shared_files.renew(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Lease(NamedTuple):
    """A lease as other processes see it."""

    name: str
    owner: str
    since: float
    """time.time() on its owner's machine when it was acquired."""
    age: float
    """Seconds since its owner's last heartbeat."""
    alive: bool


class Leases:
    """The leases of one job in a folder; a context manager that releases them at its end.

    A lease is a file `<name>.<generation>`, created with O_EXCL, so of two jobs that ask at once
    one gets it. A job that takes over from a dead one creates the next generation, and so cannot
    remove a lease that a third job has just taken over. A dead owner on the same machine is
    recognised at once, by a lock that the kernel drops with the process; elsewhere, by its
    heartbeat. A job that was only suspended may have lost its lease: it must ask `holds` before it
    commits.
    """

    def __init__(self, folder: pathlib.Path, stale: float = LEASE_STALE) -> None:
        if not stale > 0:
            raise ValueError(f"leases go stale after a positive number of seconds, not {stale}")
        self.folder, self.stale, self.owner = folder, stale, _new_owner()
        self._held: dict[str, pathlib.Path] = {}
        self._files: dict[str, int] = {}  # open while they are held, for the kernel's lock
        self._beating = contextlib.ExitStack()

    def __enter__(self) -> "Leases":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._beating.enter_context(_heartbeat(self._held.values(), self.stale))
        return self

    def __exit__(self, *_: object) -> None:
        self._beating.close()  # first, so that no released file is renewed
        for name in list(self._held):
            self.release(name)

    def acquire(self, name: str) -> bool:
        """Acquire a lease, without waiting; False where another job holds it."""
        newest = _newest_file(self.folder, name)
        if newest and _read_lease(newest).alive:
            return False
        path = self.folder / f"{name}.{1 + _generation(newest) if newest else 0}"
        with signals.shield():
            try:
                file = shared_files.create(path, self._sign)
            except FileExistsError:
                return False
            signals.hold(path, shared_files.remove)
        try:
            # List again: a network file system may have cached the listing above, in which case
            # our generation was free only because a later one exists.
            others = [other for other in _lease_files(self.folder, name) if other != path]
            lost = any(_read_lease(other).alive for other in others)
        except OSError as error:
            _withdraw(path, file)
            raise OSError(error.errno, error.strerror, str(path)) from error
        if lost:
            _withdraw(path, file)
            return False
        self._held[name], self._files[name] = path, file
        return True

    def _sign(self, file: int) -> bytes:
        """Lock the file, before it has content: readers test the lock."""
        content = {"owner": self.owner, "since": time.time(), "stale": self.stale}
        with contextlib.suppress(OSError):  # without kernel locks the heartbeat has to do
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content["boot"] = _boot(os.fstat(file))
        return json.dumps(content).encode()

    def holds(self, name: str) -> bool:
        """Return whether this job still has the lease: no other job has taken it over."""
        path = self._held.get(name)
        return bool(path and _newest_file(self.folder, name) == path and self._is_own(path))

    def release(self, name: str) -> None:
        """Give up a held lease, and remove stale ones of earlier generations."""
        path = self._held.pop(name)
        try:
            if self._is_own(path):
                for older in sorted(_lease_files(self.folder, name), key=_generation):
                    if _generation(older) <= _generation(path):
                        shared_files.remove(older)
        finally:
            os.close(self._files.pop(name))
            signals.let_go(path)

    def remove_stale(self) -> None:
        """Remove the leases of dead jobs."""
        for lease in list_leases(self.folder):
            if not lease.alive and self.acquire(lease.name):
                self.release(lease.name)

    def of_others(self) -> list[Lease]:
        """List the leases that other living jobs hold."""
        return [x for x in list_leases(self.folder) if x.alive and x.owner != self.owner]

    def _is_own(self, path: pathlib.Path) -> bool:
        return _read_signature(path).get("owner") == self.owner


def list_leases(folder: pathlib.Path) -> list[Lease]:
    """List the newest generation of every lease in a folder, by name."""
    newest = {path.stem: path for path in sorted(_lease_files(folder), key=_generation)}
    return [_read_lease(newest[name]) for name in sorted(newest)]


def _lease_files(folder: pathlib.Path, name: str | None = None) -> list[pathlib.Path]:
    """List the files of all generations, of one lease or of all."""
    paths = (folder / file for file in shared_files.names(folder) if re.search(r"\.\d+$", file))
    return [path for path in paths if name is None or path.stem == name]


def _generation(path: pathlib.Path) -> int:
    return int(path.suffix[1:])


def _newest_file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    return max(_lease_files(folder, name), key=_generation, default=None)


def _read_lease(path: pathlib.Path) -> Lease:
    signature, age = _read_signature(path), _heartbeat_age(path)
    alive = age < signature.get("stale", LEASE_STALE) and not _is_unlocked(path, signature)
    owner, since = signature.get("owner", "unknown"), signature.get("since", 0.0)
    return Lease(path.stem, owner, since, age, alive)


def _read_signature(path: pathlib.Path) -> dict[str, Any]:
    """Return what the owner wrote; {} for a file that is new, or was left empty by a kill."""
    try:
        return json.loads(shared_files.read(path))
    except (OSError, ValueError):
        return {}


def _is_unlocked(path: pathlib.Path, signature: dict[str, Any]) -> bool:
    """Return whether the owner ran under this kernel and has died: its kernel lock is gone."""
    try:
        with open(path, "rb") as file:
            if not signature.get("boot") or signature["boot"] != _boot(os.fstat(file.fileno())):
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _withdraw(path: pathlib.Path, file: int) -> None:
    shared_files.remove(path)
    os.close(file)
    signals.let_go(path)


def _boot(file: os.stat_result) -> str:
    """Identify the running kernel and the file's mount; "" where the kernel has no identity.

    Two mounts of one network folder need not see each other's kernel locks. The number of the file
    distinguishes copies of a study in a bucket.
    """
    with contextlib.suppress(OSError):
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {file.st_dev} {file.st_ino}"
    return ""


@contextlib.contextmanager
def exclusive(
    folder: pathlib.Path, name: str, done: str, stale: float = EXCLUSIVE_STALE, poll: float = 0.2
) -> Iterator[Callable[[], bool]]:
    """Hold the exclusive lock `name` of a folder; yields a function that says if it is still held.

    A holder that died on another machine is waited for until its heartbeat is stale. A process that
    was suspended for that long has lost the lock, and must ask before it commits.

    Args:
        folder: its leases are in `leases/` within.
        name: of the lock.
        done: what is done to the folder, such as "trained", for messages.
        stale: seconds without a heartbeat after which a holder elsewhere counts as dead.
        poll: seconds between two attempts.

    Raises:
        ValueError: another process holds the lock, and gave a heartbeat meanwhile.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_if_empty, folder)
        held = stack.enter_context(Leases(folder / "leases", stale))
        youngest = float("inf")
        while not held.acquire(name):
            if other := _find_holder(folder, name):
                if other.age < youngest < float("inf"):
                    raise ValueError(
                        f"{folder} is being {done} by {other.owner}: stop that process, or wait "
                        "until it ends"
                    )
                if youngest == float("inf"):
                    where = bucket.named_by_url(str(folder))
                tqdm.tqdm.write(f"{where}: checking whether {other.owner} is still alive")
                youngest = other.age
            time.sleep(poll)
        bucket.pull(folder)  # what the last holder did
        yield lambda: held.holds(name)


def _remove_if_empty(folder: pathlib.Path) -> None:
    """Remove a folder in which nothing was made, so that it does not look like a begun study."""
    with contextlib.suppress(OSError):
        if os.listdir(folder) == ["leases"]:
            (folder / "leases").rmdir()
            folder.rmdir()


def _find_holder(folder: pathlib.Path, name: str) -> Lease | None:
    """Return the lease of a living holder of that exclusive lock."""
    return next((x for x in list_leases(folder / "leases") if x.name == name and x.alive), None)


_TRAINER = "trainer"


def exclusive_trainer(
    folder: pathlib.Path, stale: float = EXCLUSIVE_STALE, poll: float = 0.2
) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """Hold the lock of a run's trainer, as `exclusive` does."""
    return exclusive(folder, _TRAINER, "trained", stale, poll)


def running_trainer(folder: pathlib.Path) -> Lease | None:
    """Return the lease of the process that trains this run; None where none does."""
    return _find_holder(folder, _TRAINER)


# A reader creates its pin, and the trainer its deletion mark, before each looks for the other's. So
# at least one of them sees the other: the trainer then keeps the checkpoint, and the reader waits
# for the trainer's decision. Both are files in one folder, which is listed anew after each write,
# because network file systems cache listings.


class CheckpointGone(ValueError):
    """A checkpoint that does not exist, perhaps no longer."""


@contextlib.contextmanager
def pin(folder: pathlib.Path, step: int) -> Iterator[None]:
    """Keep a checkpoint from deletion; raises CheckpointGone where it does not exist.

    In a folder without write permission there is no pin: a deletion by its trainer then appears as
    a checkpoint that cannot be read.
    """
    own = _pins(folder) / f"{step}@{_new_owner()}"
    with contextlib.ExitStack() as held:
        held.enter_context(signals.unfinished(own, shared_files.remove))
        held.callback(_remove_pin, own)
        with contextlib.suppress(OSError):
            shared_files.touch(own)
            lock_while_open(held.enter_context(open(own, "rb")).fileno())
        while _exists_fresh(folder, f"{step}.deleting"):
            time.sleep(0.01)
        if str(step) not in shared_files.names(folder):
            raise CheckpointGone(f"there is no checkpoint {step} in {folder}, or no longer")
        with _heartbeat([own], PIN_STALE):
            yield


def _remove_pin(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        shared_files.remove(path)


@contextlib.contextmanager
def deletion_mark(folder: pathlib.Path, step: int) -> Iterator[bool]:
    """Mark a checkpoint for deletion; yields whether it is unpinned, and then nobody can pin it."""
    mark = _pins(folder) / f"{step}.deleting"
    with signals.unfinished(mark, shared_files.remove):
        shared_files.touch(mark)
        try:
            yield not _exists_fresh(folder, f"{step}@")
        finally:
            shared_files.remove(mark)


def remove_stale_pins(folder: pathlib.Path) -> None:
    """Remove stale pins and all deletion marks; for a trainer that starts, and so has none."""
    for path in _pin_files(folder):
        if path.name.endswith(".deleting") or _heartbeat_age(path) >= PIN_STALE:
            shared_files.remove(path)


def remove_dead_pins(folder: pathlib.Path) -> None:
    """Remove the pins that killed processes of this machine left behind."""
    for path in _pin_files(folder):
        if is_of_dead_process(path):
            shared_files.remove(path)


def _pins(folder: pathlib.Path) -> pathlib.Path:
    return folder / "pins"


def _pin_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [_pins(folder) / name for name in shared_files.names(_pins(folder))]


def _exists_fresh(folder: pathlib.Path, prefix: str) -> bool:
    """Return whether a pin or mark whose name begins so is not stale."""
    return any(
        path.name.startswith(prefix) and _heartbeat_age(path) < PIN_STALE
        for path in _pin_files(folder)
    )
