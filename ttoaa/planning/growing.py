"""Arrays on disk: .npy files that grow as their rows come, and scratch for the time of a call."""

import hashlib
import io
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

_HEADER = 128


class Growing:
    """A .npy file written from first row to last, that never stands in memory as a whole."""

    def __init__(self, path: pathlib.Path, dtype: Any, row: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self._row = path, np.dtype(dtype), row
        self.count = 0
        self._digest = hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115 (closed by close)
        self._file.write(bytes(_HEADER))

    def append(self, rows: np.ndarray) -> None:
        """Rows of shape [k, *row], of a type that holds them."""
        rows = np.ascontiguousarray(rows, self.dtype)
        self._file.write(rows.data)
        self._digest.update(rows.data)
        self.count += len(rows)

    def close(self) -> str:
        """Writes the header; the sha256 of all rows."""
        header = io.BytesIO()
        about = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.count, *self._row)}
        np.lib.format.write_array_header_1_0(header, about)
        assert header.tell() == _HEADER
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()
        return self._digest.hexdigest()

    def reopened(self) -> np.ndarray:
        """What was written, memory-mapped, after `close`."""
        return mapped(self.path)


def mapped(path: pathlib.Path) -> np.ndarray:
    """A plain read-only array over the file: NumPy's own memmap costs a microsecond a slice."""
    return np.asarray(np.load(path, mmap_mode="r"))


def writable(path: pathlib.Path, count: int, dtype: Any) -> np.ndarray:
    """A new .npy file of [count], mapped to be written anywhere."""
    array = np.lib.format.open_memmap(path, "w+", dtype, (count,))
    with open(path, "r+b") as file:
        _reserve(file.fileno(), path.stat().st_size, str(path))
    return np.asarray(array)


def _reserve(handle: int, size: int, name: str) -> None:
    """Takes the disk's space now: a mapped page that finds none left kills without a word."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error


class Scratch:
    """Gives arrays that are gone when nobody holds them: those of `spill` bytes or more on disk."""

    def __init__(self, folder: pathlib.Path | None = None, spill: int = 1 << 26) -> None:
        self._folder, self._spill = folder, spill

    def __call__(self, count: int, dtype: Any) -> np.ndarray:
        """[count], uninitialised."""
        size = count * np.dtype(dtype).itemsize
        if self._folder is None or size < self._spill:
            return np.empty(count, dtype)
        handle, name = tempfile.mkstemp(dir=self._folder)
        try:
            _reserve(handle, size, name)
            return np.asarray(np.memmap(name, dtype, "r+", shape=(count,)))
        finally:
            os.close(handle)
            os.unlink(name)
