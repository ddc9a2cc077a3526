"""Files at URLs (gs://, s3://, memory://…) through fsspec, and local ones as they are.

A finished corpus or plan at a URL: published there, and staged to a local disk to be mapped.

Its last file (manifest.json, plan.json) is written last at both ends, so what has one is whole.
Beside it lies SHA256SUMS, in the form that `sha256sum -c` reads.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

from ttoaa import workdir
from ttoaa.data.corpus import MANIFEST, TOKENIZER, Manifest, file_sha256

_CHUNK = 1 << 22
_DRIVERS = {"gs": "ttoaa[gcs]", "gcs": "ttoaa[gcs]", "s3": "s3fs", "az": "adlfs"}


def is_url(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of that URL, and the path in it.

    Raises ValueError, saying what to install, where its protocol has no driver here.
    """
    import fsspec

    protocol = url.split("://")[0]
    options = {"auto_mkdir": True} if protocol in ("file", "local") else {}
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        fix = f"pip install '{_DRIVERS[protocol]}'" if protocol in _DRIVERS else str(error)
        raise ValueError(f"{url} needs a driver: {fix}") from error
    except ValueError as error:
        raise ValueError(f"{url}: fsspec knows no protocol {protocol!r}") from error


@contextlib.contextmanager
def told(url: str) -> Iterator[None]:
    """Drivers raise kinds of their own: here OSError with one line that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} does not exist") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(f"{url} cannot be reached: {type(error).__name__}: {reason}") from error


def files_in(path: str) -> list[str] | None:
    """Paths, relative to it, of all files under that folder; None for a file.

    Raises ValueError or OSError where there is nothing.
    """
    if not is_url(path):
        folder = pathlib.Path(path)
        if not folder.exists():
            raise ValueError(f"input {path} does not exist")
        if not folder.is_dir():
            return None
        return [path.relative_to(folder).as_posix() for path in _below(folder)]
    system, root = filesystem(path)
    with told(path):
        if system.info(root)["type"] == "file":  # isfile() says no where it means "unreachable"
            return None
        return [name.removeprefix(root.rstrip("/") + "/") for name in system.find(root)]


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files but those in hidden folders; links are followed, and told where they lead nowhere.

    What cannot be listed raises OSError, where pathlib's own glob would leave it out.
    """

    def refuse(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = pathlib.Path(name)
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for link in (here / inner for inner in folders):
            if link.is_symlink() and here.resolve().is_relative_to(link.resolve()):
                raise ValueError(f"input {link} is a link to a folder that it is in: remove it")
        paths = (here / file for file in files)
        yield from (path for path in paths if path.is_file() or path.is_symlink())


def chunks(url: str) -> Iterator[bytes]:
    """The content of the file there, a few MB at a time."""
    system, path = filesystem(url)
    with told(url), system.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextlib.contextmanager
def local(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A local path of that file: a temporary copy (under TMPDIR) of one at a URL."""
    if not is_url(path):
        yield pathlib.Path(path)
        return
    url = str(path)
    system, source = filesystem(url)
    with tempfile.TemporaryDirectory(prefix="ttoaa-") as folder:
        target = pathlib.Path(folder) / pathlib.PurePosixPath(source).name
        with told(url):
            size = system.size(source)
        free = shutil.disk_usage(folder).free
        if size and size > free:
            raise OSError(
                f"{url} has {size / 1e6:,.1f} MB and {folder} {free / 1e6:,.1f} MB free: "
                f"set TMPDIR to a larger disk"
            )
        with open(target, "wb") as here:
            here.writelines(chunks(url))
        if size is not None and target.stat().st_size != size:
            raise OSError(f"{url} has {size} bytes, {target.stat().st_size} came: try again")
        yield target


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file at a path or URL."""
    with local(path) as here:
        return here.read_bytes()


SUMS = "SHA256SUMS"
LAST = (MANIFEST, "plan.json")

_AT_ONCE = 8  # files; one stream of an object store is far slower than its network
_OURS_ALONE = ("leases", "unfinished")


def stage(
    url: str,
    folder: str | os.PathLike[str],
    progress: bool = True,
    check: Callable[[bytes], None] | None = None,
) -> None:
    """Copies the corpus or plan at `url` to `folder`; one that is there is left alone.

    Killed, it goes on with the files that are there and have the right sha256. `check` is given
    the content of the last file before anything is copied, and raises what it objects to.

    Raises ValueError where there is none, or something else lies in the folder; OSError where the
    disk has too little room, the URL cannot be reached, or a file there is damaged.
    """
    folder = pathlib.Path(folder)
    if any((folder / name).exists() for name in LAST):
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something unfinished: remove it, then fetch {url}")
    system, root = filesystem(url)
    with told(url):
        sizes = _sizes(system, root)
    last = _last(url, sizes)
    with told(url):
        content = system.cat_file(_at(root, last))
    if check is not None:
        check(content)
    sums = _sums_there(url, system, root, sizes, content)
    unfinished = folder.with_name(f"{folder.name}.fetching")
    for leftover in unfinished.rglob("*.tmp-*"):
        leftover.unlink()
    missing = _missing(unfinished, sums, sizes)
    _check_room(url, unfinished, sum(sizes[name] for name in missing))

    def fetch(name: str) -> int:
        _fetch(f"{url.rstrip('/')}/{name}", unfinished / name, sums[name])
        return sizes[name]

    _each(fetch, missing, "fetching", sum(sizes[name] for name in missing), progress)
    workdir.write_bytes(unfinished / last, content)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(unfinished, folder)


def publish(folder: str | os.PathLike[str], url: str, progress: bool = True) -> bool:
    """Copies a finished corpus or plan to `url`; False where it is there already.

    Killed, it goes on with what is missing there. Raises ValueError where the folder is unfinished
    or the URL has another one, OSError where the URL cannot be reached.
    """
    folder = pathlib.Path(folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    last = _last(str(folder), names)
    _refuse_outside(folder, last)
    names = [n for n in sorted(names) if n != last and n.split("/")[0] not in _OURS_ALONE]
    system, root = filesystem(url)
    with told(url):
        there = _sizes(system, root)
        other = system.cat_file(_at(root, last)) if last in there else None
    if other == (folder / last).read_bytes():
        return False
    if other is not None:
        raise ValueError(f"{url} has another {last}: publish to another URL, or remove that one")
    sums = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names).encode()
    sizes = {name: (folder / name).stat().st_size for name in names}
    with told(url):
        if SUMS not in there or system.cat_file(_at(root, SUMS)) != sums:
            for name in set(names) & set(there):  # who knows of what
                system.rm_file(_at(root, name))
            there = {}
            system.pipe_file(_at(root, SUMS), sums)
    missing = [name for name in names if there.get(name) != sizes[name]]

    def put(name: str) -> int:
        with told(f"{url.rstrip('/')}/{name}"):
            system.put_file(str(folder / name), _at(root, name))
        return sizes[name]

    _each(put, missing, "publishing", sum(sizes[name] for name in missing), progress)
    with told(url):
        system.pipe_file(_at(root, last), (folder / last).read_bytes())
    return True


def _fetch(url: str, path: pathlib.Path, sha256: str) -> None:
    """Whole and right, or not at all; what a killed one leaves, the next `stage` removes."""
    digest = hashlib.sha256()
    with workdir.writing(path) as here:  # under a name of this process alone
        for chunk in chunks(url):
            digest.update(chunk)
            here.write(chunk)
        if digest.hexdigest() != sha256:
            raise OSError(f"{url} is damaged, its sha256 is not that stated: publish it anew")


def _at(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"


def _sizes(system: Any, root: str) -> dict[str, int]:
    """Of all files under that folder, by their names in it; none where there is no such folder."""
    system.invalidate_cache()
    try:
        found = system.find(root, detail=True)
    except FileNotFoundError:
        return {}
    start = root.rstrip("/") + "/"
    return {path.removeprefix(start): info["size"] for path, info in found.items()}


def _last(where: str, names: Iterable[str]) -> str:
    found = [name for name in LAST if name in names]
    if not found:
        raise ValueError(
            f"{where} has no finished corpus or plan, as it has no {' or '.join(LAST)}"
        )
    return found[0]


def _sums_there(
    url: str, system: Any, root: str, sizes: dict[str, int], content: bytes
) -> dict[str, str]:
    """sha256 of every file but the last; of a corpus copied by other means from its manifest."""
    if SUMS in sizes:
        with told(url):
            lines = system.cat_file(_at(root, SUMS)).decode().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    elif MANIFEST in sizes:
        manifest = Manifest.from_bytes(content)
        sums = {shard.name: shard.sha256 for shard in manifest.shards}
        sums[TOKENIZER] = manifest.vocabulary
    else:
        raise ValueError(f"{url} has no {SUMS}: publish the plan by ttoaa.data.storage.publish")
    for name in sums:
        path = pathlib.PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{url} has a file outside of its folder, {name}: it cannot be copied")
        if name not in sizes:
            raise ValueError(f"{url} lacks {name}: publish it anew")
    return sums


def _missing(folder: pathlib.Path, sums: dict[str, str], sizes: dict[str, int]) -> list[str]:
    """What is not there with the right content."""

    def there(name: str) -> bool:
        path = folder / name
        right = path.is_file() and path.stat().st_size == sizes[name]
        return right and file_sha256(path) == sums[name]

    return [name for name in sums if not there(name)]


def _check_room(url: str, folder: pathlib.Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{url} needs {needed / 1e6:,.1f} MB more and the disk of {folder} has "
            f"{free / 1e6:,.1f} MB free: free some, or take another --workdir"
        )


def _refuse_outside(folder: pathlib.Path, last: str) -> None:
    if last == MANIFEST:
        manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
        outside = [shard.name for shard in manifest.shards if os.path.isabs(shard.name)]
        if outside:
            raise ValueError(
                f"{folder} refers to token files outside of it, such as {outside[0]}: copy those "
                f"to the other machine and make the corpus there"
            )


def _each(
    do: Callable[[str], int], names: list[str], what: str, total: int, progress: bool
) -> None:
    """Does it to all, several at once; the first error stops those that have not begun."""
    bar = tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=not progress)
    with bar, concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(do, name) for name in names]
        try:
            for future in concurrent.futures.as_completed(waiting):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
