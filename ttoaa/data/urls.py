"""Files at URLs (gs://, s3://, memory://…) through fsspec, and local ones as they are."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

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
