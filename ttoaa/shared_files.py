"""Small files through which processes agree: on a disk that all see, or objects in a bucket.

For a path in the copy of a study in a bucket (see `ttoaa.bucket`) the object counts. A file of the
same name in the copy holds the kernel's lock, by which other processes of this machine see whether
its owner is alive.
"""

import contextlib
import errno
import os
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

from ttoaa import bucket
from ttoaa.gcs_objects import Object


class _Written(NamedTuple):
    content: bytes
    generation: int


_written: dict[pathlib.Path, _Written] = {}
"""Objects that this process wrote: it changes and deletes no later generation of them."""


def names(folder: pathlib.Path) -> list[str]:
    """List the names of files and folders in a folder; none where it is missing."""
    if there := bucket.find(folder):
        return there.children()
    with contextlib.suppress(FileNotFoundError):
        return os.listdir(folder)
    return []


def age(path: pathlib.Path) -> float:
    """Return the seconds since a file was written or renewed; infinite for a missing file."""
    try:
        there = bucket.find(path)
        if there is None:
            return time.time() - path.stat().st_mtime
        found = there.look()
        return float("inf") if found is None else time.time() - found.updated.timestamp()
    except OSError:
        return float("inf")


def read(path: pathlib.Path) -> bytes:
    there = bucket.find(path)
    return path.read_bytes() if there is None else there.read()


def exists(path: pathlib.Path) -> bool:
    there = bucket.find(path)
    return path.exists() if there is None else there.look() is not None


def stamp(path: pathlib.Path) -> tuple[int, int]:
    """Return (time, number) of a file, which another file of that name does not have.

    Raises FileNotFoundError where it is missing.
    """
    if there := bucket.find(path):
        found = there.look()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(there))
        return bucket.microseconds(found), int(found.generation)
    state = path.stat()
    return state.st_mtime_ns, state.st_ino


def create(path: pathlib.Path, sign: Callable[[int], bytes]) -> int:
    """Create a file that does not exist, of several processes that try in one only.

    Returns its descriptor, to be kept open for the kernel's lock. `sign` is called with that, takes
    the lock, and returns the content. Raises FileExistsError where the file exists.
    """
    there = bucket.find(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    exclusive = 0 if there else os.O_EXCL
    file = os.open(path, os.O_CREAT | exclusive | os.O_WRONLY, 0o666)
    try:
        content = sign(file)
        if there is None:
            os.write(file, content)
        else:
            _written[path] = _Written(content, _write_own(there, content, generation=0))
    except BaseException as error:
        if not isinstance(error, FileExistsError):  # the file may be another process's
            path.unlink(missing_ok=True)
        os.close(file)
        raise
    return file


def _write_own(there: Object, content: bytes, generation: int) -> int:
    """Write an object that has this generation; it is ours too if a lost reply made us repeat it.

    No other process writes the same content under this name. Raises FileExistsError where another
    one was faster.
    """
    try:
        return there.write(content, generation)
    except FileExistsError:
        found = there.look()
        if found is None or there.read() != content:
            raise
        return int(found.generation)


def touch(path: pathlib.Path) -> None:
    """Make an empty file, or an old one new."""
    there = bucket.find(path)
    path.parent.mkdir(parents=there is not None, exist_ok=True)
    path.touch()
    if there:
        _written[path] = _Written(b"", there.write(b""))


def renew(path: pathlib.Path) -> None:
    """Make a file that this process made new; raise OSError where another process changed it."""
    if there := bucket.find(path):
        before = _written[path]
        generation = _write_own(there, before.content, before.generation)
        if _written.get(path) is not before:  # removed meanwhile, by another thread
            there.delete(generation)
            return
        _written[path] = _Written(before.content, generation)
    os.utime(path)


def remove(path: pathlib.Path) -> None:
    """Remove a file; an object that this process wrote, only if no other has changed it."""
    if there := bucket.find(path):
        own = _written.pop(path, None)
        there.delete(own and own.generation)
    path.unlink(missing_ok=True)
