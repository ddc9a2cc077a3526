"""Study folders in a bucket of Google Cloud Storage, such as gs://my-bucket/study.

Commands work on a copy of the folder: <cache>/gs/my-bucket/study, where the cache is $TTOAA_CACHE,
by default ~/.cache/ttoaa. A path in the copy belongs to the object of the same name; for all other
paths the functions here do nothing. The bucket is always right:

- A file is uploaded whole before it gets its name in the copy. A kill leaves the old or the new
  object, and a copy that is at most behind; `pull` brings it up to date.
- Files that grow line by line are uploaded before each checkpoint that relies on them.
- Checkpoints, leases and pins exist in the bucket alone (`url_of`, `ttoaa.shared_files`).
- XLA's cache, profiles and unfinished work stay on the machine that made them.

Every process uploads what it writes. Of several processes of one run, only the primary writes.
"""

import base64
import concurrent.futures
import contextlib
import errno
import functools
import itertools
import os
import pathlib
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import tqdm

from ttoaa.gcs_objects import SCHEME, Object, one_line_errors

# Before the first use of epath, which remembers it: buckets are read without TensorFlow.
os.environ.setdefault("EPATH_USE_TF", "false")
_NOT_PULLED = {
    *("checkpoints", "leases", "pins"),  # in the bucket alone
    *("tensorboard", "wandb", "profile", ".cache", "unfinished", "scans"),  # of one machine
}
_NOT_PUBLISHED = re.compile(r"\.tmp-|\.fetching/|/corpus/(?:unfinished|scans)/|/\.cache/")
_UPLOADING = ".uploading"
"""Object in a folder that is not whole yet."""
_PARALLEL = 8


@functools.cache
def _copies() -> pathlib.Path:
    """Return the folder that has the copies, by bucket."""
    cache = os.environ.get("TTOAA_CACHE") or "~/.cache/ttoaa"
    return pathlib.Path(cache).expanduser().resolve() / "gs"


def local_path(url: str) -> pathlib.Path:
    """Return the path of the copy of a folder; raise ValueError for a URL of another kind."""
    parts = pathlib.PurePosixPath(url.removeprefix(SCHEME).strip("/")).parts
    if not url.startswith(SCHEME):
        raise ValueError(f"{url}: a study is in a folder or at gs:// (docs/pods.md)")
    if len(parts) < 2 or ".." in parts:
        raise ValueError(f"{url} must be gs://BUCKET/FOLDER")
    return _copies().joinpath(*parts)


def find(path: pathlib.Path) -> Object | None:
    """Return the object that a path in a copy belongs to; None for all other paths."""
    try:
        bucket, *rest = path.relative_to(_copies()).parts
    except ValueError:
        return None
    return Object(bucket, "/".join(rest)) if rest else None


def url_of(path: pathlib.Path) -> Any:
    """Return where Orbax and TensorStore read and write a folder: a path, or an epath at gs://."""
    there = find(path)
    if there is None:
        return path.resolve()
    _configure_fsspec()
    from etils import epath

    return epath.Path(str(there))


@functools.cache
def _configure_fsspec() -> None:
    """Let epath read buckets through gcsfs without remembered listings."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec

    for protocol in ("gs", "gcs"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def named_by_url(text: str) -> str:
    """Return a message with the URLs of files in place of the paths of their copies."""
    return text.replace(f"{_copies()}/", SCHEME)


def unfinished_name(path: pathlib.Path) -> pathlib.Path:
    """Return a name that ends in .tmp-host-process: what a kill leaves is easy to find."""
    return path.with_name(f"{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")


def publish(unfinished: pathlib.Path, path: pathlib.Path, generation: int | None = None) -> None:
    """Upload a file that is about to be renamed to `path`.

    Raises FileExistsError where `generation` is given and the object has another one and content.
    """
    there = find(path)
    if there is None or _NOT_PUBLISHED.search(f"/{there.name}"):
        return
    with open(unfinished, "rb") as file:
        try:
            blob = there.upload(file, generation)
        except FileExistsError:  # ours too, if a lost reply made the client repeat it
            blob = there.look()
            if blob is None or blob.crc32c != _crc32c(unfinished, unfinished.stat().st_size):
                raise
    _mark(unfinished, blob)


def publish_folder(unfinished: pathlib.Path, folder: pathlib.Path) -> None:
    """Upload a folder that is about to be renamed to `folder`; others see it once it is whole.

    The caller holds the folder's lock. If it was suspended and lost the lock, the conditions on
    generations stop it before it changes what the new holder writes.

    Raises FileExistsError where the bucket has the folder already.
    """
    there = find(folder)
    if there is None:
        return
    remove_unfinished(folder)
    if there.children():
        raise FileExistsError(errno.EEXIST, "another process has made it", str(there))
    marker = there.child(_UPLOADING)
    generation = marker.write(b"", generation=0)
    paths = [path for path in unfinished.rglob("*") if path.is_file()]
    names = [folder / path.relative_to(unfinished) for path in paths]
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(publish, paths, names, itertools.repeat(0)))
    marker.delete(marker.write(b"", generation))  # the write fails if another process took over


def remove_unfinished(folder: pathlib.Path) -> None:
    """Delete what a killed `publish_folder` uploaded; the caller holds the folder's lock."""
    there = find(folder)
    if there is None:
        return
    found = {n: blob.generation for n, blob in there.files() if not n.startswith("leases/")}
    if _UPLOADING not in found:
        return
    marker = found.pop(_UPLOADING)
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(Object.delete, map(there.child, found), found.values()))
    there.child(_UPLOADING).delete(marker)  # last: until then the folder does not count


def upload(path: pathlib.Path, file: BinaryIO | None = None) -> None:
    """Upload a file that grows; `file` is its writer's, as another process may replace the path."""
    there = find(path)
    if there is None:
        return
    with contextlib.ExitStack() as stack:
        there.upload(file or stack.enter_context(open(path, "rb")))


class BackgroundUpload:
    """Upload a file that grows in one thread, so that its writer does not wait for the bucket."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self._failed = path, False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin an upload, unless one is running; the next one includes what that one misses."""
        if find(self.path) and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._try, daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Upload the whole file now; raise OSError where that fails."""
        if self._thread:
            self._thread.join()  # so that no older content arrives later
        upload(self.path)

    def _try(self) -> None:
        try:
            upload(self.path)
            self._failed = False
        except OSError as error:
            if not self._failed:  # one line per outage
                reason = f"{error.filename}: {error.strerror}"
                tqdm.tqdm.write(f"{reason}; the next upload includes these lines")
            self._failed = True


def remove(path: pathlib.Path) -> None:
    """Remove a file, and its object first."""
    if there := find(path):
        there.delete()
    path.unlink(missing_ok=True)


def delete_folder(folder: pathlib.Path, first: str) -> None:
    """Delete all objects of a folder, beginning with the one whose absence makes it unfinished."""
    there = find(folder)
    assert there is not None
    there.child(first).delete()
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(Object.delete, [there.child(name) for name, _ in there.files()]))


def move_folder(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Copy all objects of a folder into another one, then delete them."""
    there, aside = find(folder), find(target)
    assert there is not None and aside is not None
    for name, _ in list(there.files()):
        there.child(name).move(aside.child(name).name)


_pulled: set[pathlib.Path] = set()


def expand(name: str) -> pathlib.Path:
    """Return the path that a user named; of a folder in a bucket its copy, which is up to date.

    Raises ValueError for a URL of another kind, and OSError where the bucket cannot be reached.
    """
    if "://" not in name:
        return pathlib.Path(name).expanduser()
    path = local_path(name)
    if path not in _pulled:  # once in a process
        pull(path)
        _pulled.add(path)
    return path


def pull(folder: pathlib.Path) -> None:
    """Make the copy of a folder like the one in the bucket, but for what `_is_pulled` leaves out.

    Raises OSError where the bucket cannot be reached or the disk is full.
    """
    there = find(folder)
    if there is None:
        return
    # First: a file that appears in the copy after this look was in the bucket before.
    here = {name: folder / name for name in _walk(folder)}
    found = dict(there.files(_is_pulled))
    marked = (name.rpartition("/") for name in found)
    partial = tuple(start + slash for start, slash, name in marked if name == _UPLOADING)
    found = {name: blob for name, blob in found.items() if not name.startswith(partial or "//")}
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        list(pool.map(lambda name: _fetch(found[name], folder / name), found))
    for name in here.keys() - found.keys():
        here[name].unlink(missing_ok=True)
        for parent in here[name].parents:
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()


def pull_file(path: pathlib.Path) -> None:
    """Make the copy of one file like its object."""
    if there := find(path):
        blob = there.look()
        if blob is None:
            path.unlink(missing_ok=True)
        else:
            _fetch(blob, path)


def _walk(folder: pathlib.Path) -> Iterator[str]:
    """Yield the names of the files in a copy that `pull` may change."""
    for where, folders, files in os.walk(folder):
        inner = pathlib.Path(where).relative_to(folder).as_posix()
        start = "" if inner == "." else f"{inner}/"
        folders[:] = [name for name in folders if _is_pulled(f"{start}{name}/")]
        yield from (start + name for name in files if _is_pulled(start + name))


def _is_pulled(name: str) -> bool:
    """Return whether the copy of a study has a file; a folder's name ends in a slash.

    Shards of the corpus come when the corpus is opened. Experiments may be named like folders.
    """
    parts = name.split("/")
    kinds = ["", *(part.partition("-s")[0] for part in parts)]
    inner = zip(parts[:-1], kinds, strict=False)
    if any(part in _NOT_PULLED and kind not in ("alone", "without") for part, kind in inner):
        return False
    if ".tmp-" in name or parts[0].endswith(".fetching"):  # unfinished
        return False
    return not (parts[0] == "corpus" and name.endswith(".bin"))


def _fetch(blob: Any, path: pathlib.Path) -> None:
    """Download an object unless the copy has its content."""
    if _has_content(path, blob):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = unfinished_name(path)
    try:
        with one_line_errors(Object(blob.bucket.name, blob.name)):
            blob.download_to_filename(str(unfinished))
        _mark(unfinished, blob)
        if path.suffix != ".jsonl" or not _begins_like(path, unfinished):
            os.replace(unfinished, path)
    except FileNotFoundError:  # deleted since it was listed
        return
    finally:
        unfinished.unlink(missing_ok=True)


def _has_content(path: pathlib.Path, blob: Any) -> bool:
    """Return whether a file is like an object, or begins like it and grows line by line.

    A file has the object's time as its own once it was compared.
    """
    with contextlib.suppress(FileNotFoundError):
        state = path.stat()
        if state.st_size == blob.size and state.st_mtime_ns // 1000 == microseconds(blob):
            return True
        grows = path.suffix == ".jsonl" and state.st_size >= blob.size
        if (grows or state.st_size == blob.size) and _crc32c(path, blob.size) == blob.crc32c:
            if state.st_size == blob.size and not grows:
                _mark(path, blob)
            return True
    return False


def _begins_like(path: pathlib.Path, other: pathlib.Path) -> bool:
    """Return whether a file begins with the content of another: its writer is ahead."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        content = other.read_bytes()
        return file.read(len(content)) == content
    return False


def _crc32c(path: pathlib.Path, size: int) -> str:
    """Return the checksum of a file's first bytes as buckets write it."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while size > 0 and (chunk := file.read(min(size, 1 << 22))):
            checksum.update(chunk)
            size -= len(chunk)
    return base64.b64encode(checksum.digest()).decode()


def _mark(path: pathlib.Path, blob: Any) -> None:
    time = microseconds(blob) * 1000
    os.utime(path, ns=(time, time))


def microseconds(blob: Any) -> int:
    """Return when an object was written, since 1970."""
    return round(blob.updated.timestamp() * 1e6)
