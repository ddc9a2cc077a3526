"""Objects in a bucket of Google Cloud Storage, written on condition of their generation.

Every write of an object is whole, and gives it a new generation number.
"""

import contextlib
import errno
import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

SCHEME = "gs://"
_FLAT = re.compile(r"(?:^|/)(?:tables|plan|corpus|choices)(?:-s\d+)?/$")
"""Folders of a study with many folders and no checkpoints in them: listed in one request."""


class Object(NamedTuple):
    """An object of a bucket, or the common beginning of the names of several, like a folder."""

    bucket: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.name}"

    def child(self, name: str) -> "Object":
        """Return the object of this name in a folder."""
        return Object(self.bucket, f"{self.name}/{name}")

    def look(self) -> Any:
        """Return its metadata, or None where it does not exist."""
        with one_line_errors(self):
            return _client(os.getpid()).bucket(self.bucket).get_blob(self.name)

    def read(self) -> bytes:
        """Return its content; raise FileNotFoundError where it does not exist."""
        with one_line_errors(self):
            return bytes(self._blob().download_as_bytes())

    def write(self, content: bytes, generation: int | None = None) -> int:
        """Write it whole, and return its new generation.

        Raises FileExistsError where `generation` is given and is not the present one; 0 means that
        it must not exist.
        """
        blob = self._blob()
        with one_line_errors(self):
            blob.upload_from_string(content, if_generation_match=generation)
        return int(blob.generation)

    def upload(self, file: BinaryIO, generation: int | None = None) -> Any:
        """Write a file's content; return its metadata. `generation` as in `write`."""
        blob, size = self._blob(), os.fstat(file.fileno()).st_size
        with one_line_errors(self):
            blob.upload_from_file(file, rewind=True, size=size, if_generation_match=generation)
        return blob

    def delete(self, generation: int | None = None) -> None:
        """Delete it if it exists and, if one is given, has this generation."""
        with contextlib.suppress(FileNotFoundError, FileExistsError), one_line_errors(self):
            self._blob().delete(if_generation_match=generation)

    def move(self, name: str) -> None:
        """Copy it to another name in its bucket, which takes the bucket no time, and delete it."""
        blob = self._blob()
        with one_line_errors(self):
            blob.bucket.copy_blob(blob, blob.bucket, name)
        self.delete()

    def children(self) -> list[str]:
        """List the names of files and folders in a folder."""
        start = f"{self.name}/"
        with one_line_errors(self):
            found = _client(os.getpid()).list_blobs(self.bucket, prefix=start, delimiter="/")
            names = [blob.name for blob in found]
        inside = (name.removeprefix(start).rstrip("/") for name in (*names, *found.prefixes))
        return sorted(filter(None, inside))

    def files(self, keep: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Any]]:
        """Yield (name in the folder, metadata) of all files in it and below that are to be kept."""
        start = f"{self.name}/"
        waiting = [""]
        while waiting:
            inner = waiting.pop()
            delimiter = None if _FLAT.search(f"{self.name}/{inner}") else "/"
            with one_line_errors(self):
                found = _client(os.getpid()).list_blobs(
                    self.bucket, prefix=start + inner, delimiter=delimiter
                )
                blobs = [(blob.name.removeprefix(start), blob) for blob in found]
            # Some tools make empty objects for folders.
            yield from ((n, blob) for n, blob in blobs if keep(n) and n and not n.endswith("/"))
            waiting += filter(keep, (name.removeprefix(start) for name in sorted(found.prefixes)))

    def _blob(self) -> Any:
        return _client(os.getpid()).bucket(self.bucket).blob(self.name)


@functools.cache
def _client(process: int) -> Any:
    """Return the client of this process: a forked one cannot share connections."""
    del process
    from google.cloud import storage

    return storage.Client()


@contextlib.contextmanager
def one_line_errors(where: Object) -> Iterator[None]:
    """Turn what the client raises into an OSError of one line that names the object.

    Raises ValueError where the client is not installed.
    """
    try:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError
    except ImportError as error:
        raise ValueError(f"{where} needs a driver: pip install 'ttoaa[gcs]'") from error

    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, "no such object or bucket", str(where)) from error
    except exceptions.PreconditionFailed as error:
        raise FileExistsError(errno.EEXIST, "another process changed it", str(where)) from error
    except (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError) as error:
        reason = f"no access: {' '.join(str(error).split())[:200]}"
        raise PermissionError(errno.EACCES, reason, str(where)) from error
    except (exceptions.GoogleAPIError, OSError) as error:
        reason = f"cannot be reached: {' '.join(str(error).split())[:200]}"
        raise OSError(errno.EIO, reason, str(where)) from error
