"""Files at URLs (gs://, s3://, memory://…) through fsspec; corpora and plans to URLs and back.

A corpus or plan at a URL is published there, and staged to a local disk to be memory-mapped. Its
manifest.json or plan.json is written last at both ends, so whatever has one is complete. A file
SHA256SUMS, in the format of `sha256sum -c`, is published with it.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ttoaa import workdir
from ttoaa.data.corpus import MANIFEST, TOKENIZER, Manifest
from ttoaa.progress import progress_bar
from ttoaa.workdir import file_sha256

_CHUNK = 1 << 22
_DRIVERS = {"gs": "ttoaa[gcs]", "gcs": "ttoaa[gcs]", "s3": "s3fs", "az": "adlfs"}


def is_url(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def absolute(path: str) -> str:
    """Return the absolute path of a file; a URL as it is."""
    return path if is_url(path) else str(pathlib.Path(path).expanduser().resolve())


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Raises ValueError, with what to install, where its protocol has no driver.
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
def one_line_errors(url: str) -> Iterator[None]:
    """Turn whatever a driver raises into an OSError of one line that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{url} does not exist") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OSError(f"{url} cannot be reached: {type(error).__name__}: {reason}") from error


def files_in(path: str) -> list[str] | None:
    """List all files below a folder, as paths relative to it; None if `path` is a file.

    Raises ValueError or OSError where it does not exist.
    """
    if not is_url(path):
        folder = pathlib.Path(path)
        if not folder.exists():
            raise ValueError(f"input {path} does not exist")
        if not folder.is_dir():
            return None
        return [path.relative_to(folder).as_posix() for path in _walk(folder)]
    system, root = filesystem(path)
    with one_line_errors(path):
        if system.info(root)["type"] == "file":  # isfile() says no where it means "unreachable"
            return None
        return [name.removeprefix(root.rstrip("/") + "/") for name in system.find(root)]


def _walk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield all files but those in hidden folders; links are followed, broken ones yielded.

    A folder that cannot be listed raises OSError, where pathlib's own glob would leave it out.
    """

    def refuse(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = pathlib.Path(name)
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        for link in (here / inner for inner in folders):
            if link.is_symlink() and here.resolve().is_relative_to(link.resolve()):
                raise ValueError(f"input {link} is a link to a folder that contains it: remove it")
        paths = (here / file for file in files)
        yield from (path for path in paths if path.is_file() or path.is_symlink())


def chunks(url: str) -> Iterator[bytes]:
    """Yield the content of a file, a few MB at a time."""
    system, path = filesystem(url)
    with one_line_errors(url), system.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextlib.contextmanager
def local(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield a local path of a file: for a URL, of a temporary copy under TMPDIR."""
    if not is_url(path):
        yield pathlib.Path(path)
        return
    url = str(path)
    system, source = filesystem(url)
    with tempfile.TemporaryDirectory(prefix="ttoaa-") as folder:
        target = pathlib.Path(folder) / pathlib.PurePosixPath(source).name
        with one_line_errors(url):
            size = system.size(source)
        workdir.check_room(folder, size or 0, f"a copy of {url}", "set TMPDIR to a larger disk")
        with open(target, "wb") as here:
            here.writelines(chunks(url))
        if size is not None and target.stat().st_size != size:
            raise OSError(f"{url}: {target.stat().st_size} of {size} bytes arrived: try again")
        yield target


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file at a path or URL."""
    with local(path) as here:
        return here.read_bytes()


SUMS = "SHA256SUMS"
LAST = (MANIFEST, "plan.json")

_PARALLEL = 8  # files: one stream of an object store is far slower than the network
_NOT_PUBLISHED = ("leases", "unfinished")


def stage(
    url: str,
    folder: str | os.PathLike[str],
    progress: bool = True,
    check: Callable[[bytes], None] | None = None,
) -> None:
    """Copy the corpus or plan at `url` to `folder`, unless the folder has one already.

    After a kill the next call keeps the files whose sha256 is right. `check` is called with the
    content of the manifest or plan.json before anything is copied, and may raise.

    Raises:
        ValueError: the URL has no corpus or plan, or the folder holds something else.
        OSError: the disk is too full, the URL cannot be reached, or a file there is damaged.
    """
    folder = pathlib.Path(folder)
    if any((folder / name).exists() for name in LAST):
        return
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something unfinished: remove it, then fetch {url} again")
    system, root = filesystem(url)
    with one_line_errors(url):
        sizes = _sizes(system, root)
    last = _last_file(url, sizes)
    with one_line_errors(url):
        content = system.cat_file(_join(root, last))
    if check is not None:
        check(content)
    sums = _read_sums(url, system, root, sizes, content)
    unfinished = folder.with_name(f"{folder.name}.fetching")
    for leftover in unfinished.rglob("*.tmp-*"):
        leftover.unlink()
    missing = _missing(unfinished, sums, sizes)
    needed = sum(sizes[name] for name in missing)
    unfinished.mkdir(parents=True, exist_ok=True)
    workdir.check_room(unfinished, needed, f"fetching {url}", "free some, or use another --workdir")

    def fetch(name: str) -> int:
        _fetch(f"{url.rstrip('/')}/{name}", unfinished / name, sums[name])
        return sizes[name]

    _for_each(fetch, missing, "fetching", needed, progress)
    workdir.write_bytes(unfinished / last, content)
    workdir.commit_folder(unfinished, folder)


def publish(folder: str | os.PathLike[str], url: str, progress: bool = True) -> bool:
    """Copy a finished corpus or plan to `url`; returns False where it is there already.

    After a kill the next call copies what is missing. Raises ValueError where the folder is
    unfinished or the URL has another corpus or plan, OSError where the URL cannot be reached.
    """
    folder = pathlib.Path(folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    last = _last_file(str(folder), names)
    _check_self_contained(folder, last)
    names = [n for n in sorted(names) if n != last and n.split("/")[0] not in _NOT_PUBLISHED]
    system, root = filesystem(url)
    with one_line_errors(url):
        there = _sizes(system, root)
        other = system.cat_file(_join(root, last)) if last in there else None
    if other == (folder / last).read_bytes():
        return False
    if other is not None:
        raise ValueError(f"{url} has another {last}: publish to another URL, or remove that one")
    sums = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names).encode()
    sizes = {name: (folder / name).stat().st_size for name in names}
    with one_line_errors(url):
        if SUMS not in there or system.cat_file(_join(root, SUMS)) != sums:
            for name in set(names) & set(there):  # from another, unknown publication
                system.rm_file(_join(root, name))
            there = {}
            system.pipe_file(_join(root, SUMS), sums)
    missing = [name for name in names if there.get(name) != sizes[name]]

    def put(name: str) -> int:
        with one_line_errors(f"{url.rstrip('/')}/{name}"):
            system.put_file(str(folder / name), _join(root, name))
        return sizes[name]

    _for_each(put, missing, "publishing", sum(sizes[name] for name in missing), progress)
    with one_line_errors(url):
        system.pipe_file(_join(root, last), (folder / last).read_bytes())
    return True


def _fetch(url: str, path: pathlib.Path, sha256: str) -> None:
    """Fetch a file, verified, or nothing; the next `stage` removes what a kill leaves."""
    digest = hashlib.sha256()
    with workdir.atomic_writer(path) as here:
        for chunk in chunks(url):
            digest.update(chunk)
            here.write(chunk)
        if digest.hexdigest() != sha256:
            raise OSError(
                f"{url} is damaged, its sha256 is not the published one: publish it again"
            )


def _join(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"


def _sizes(system: Any, root: str) -> dict[str, int]:
    """Return the size of every file below a folder, by relative path; {} where it is missing."""
    system.invalidate_cache()
    try:
        found = system.find(root, detail=True)
    except FileNotFoundError:
        return {}
    start = root.rstrip("/") + "/"
    return {path.removeprefix(start): info["size"] for path, info in found.items()}


def _last_file(where: str, names: Iterable[str]) -> str:
    """Return which of the files is written last; ValueError where there is none."""
    found = [name for name in LAST if name in names]
    if not found:
        raise ValueError(
            f"{where} has no finished corpus or plan: {' and '.join(LAST)} are missing"
        )
    return found[0]


def _read_sums(
    url: str, system: Any, root: str, sizes: dict[str, int], content: bytes
) -> dict[str, str]:
    """Return the sha256 of every file but the last; without SHA256SUMS, from a manifest."""
    if SUMS in sizes:
        with one_line_errors(url):
            lines = system.cat_file(_join(root, SUMS)).decode().splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    elif MANIFEST in sizes:
        manifest = Manifest.from_bytes(content)
        sums = {shard.name: shard.sha256 for shard in manifest.shards}
        sums[TOKENIZER] = manifest.vocabulary
    else:
        raise ValueError(f"{url} has no {SUMS}: publish the plan with ttoaa.data.storage.publish")
    for name in sums:
        path = pathlib.PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{url} lists {name}, which is outside its folder: publish it again")
        if name not in sizes:
            raise ValueError(f"{url} has no {name}: publish it again")
    return sums


def _missing(folder: pathlib.Path, sums: dict[str, str], sizes: dict[str, int]) -> list[str]:
    """List the files that the folder does not have with the right content."""

    def is_right(name: str) -> bool:
        path = folder / name
        same_size = path.is_file() and path.stat().st_size == sizes[name]
        return same_size and file_sha256(path) == sums[name]

    return [name for name in sums if not is_right(name)]


def _check_self_contained(folder: pathlib.Path, last: str) -> None:
    """Raise ValueError for a corpus that refers to token files outside its folder."""
    if last == MANIFEST:
        manifest = Manifest.from_bytes((folder / MANIFEST).read_bytes())
        outside = [shard.name for shard in manifest.shards if os.path.isabs(shard.name)]
        if outside:
            raise ValueError(
                f"{folder} refers to token files outside of it, such as {outside[0]}: copy those "
                f"to the other machine and prepare the corpus there"
            )


def _for_each(
    do: Callable[[str], int], names: list[str], what: str, total: int, progress: bool
) -> None:
    """Call `do` for every name, in parallel; the first error cancels calls that have not begun."""
    hidden = not (progress and names)
    bar = progress_bar(desc=what, total=total, unit="B", unit_scale=True, disable=hidden)
    with bar, concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        waiting = [pool.submit(do, name) for name in names]
        try:
            for future in concurrent.futures.as_completed(waiting):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
