"""Arrays on disk: .npy files that grow as their rows come, and scratch for the time of a call.

Parquet tables written in row groups while the next one is being made.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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


_AHEAD = 3  # row groups that wait to be encoded
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


class Tables:
    """Writes Parquet tables, row group after row group, in a thread of its own.

    Arrow encodes a group while Python makes the next ones: it lets go of Python's lock. What went
    wrong is raised by a later call, at the latest when the `with` block ends.
    """

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._waiting: collections.deque[concurrent.futures.Future[None]] = collections.deque()

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    @contextlib.contextmanager
    def writer(
        self, path: pathlib.Path, schema: pa.Schema, dictionaries: Sequence[str]
    ) -> Iterator[Callable[[pa.Table], None]]:
        """Gives what takes the row groups of a new table; `dictionaries`: columns of few values."""
        options = {"compression": "lz4", "use_dictionary": list(dictionaries)}
        table = pq.ParquetWriter(path, schema, write_statistics=False, **options)
        yield lambda rows: self._later(table.write_table, rows)
        self._later(table.close)

    def _later(self, call: Callable[..., None], *arguments: pa.Table) -> None:
        self._wait(_AHEAD)
        self._waiting.append(self._pool.submit(call, *arguments))

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()


def joined_text(joined: np.ndarray, starts: np.ndarray) -> pa.Array:
    """large_string[n] over uint8[total] of UTF-8 and int64[n + 1] starts, without a copy."""
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(joined)]
    return pa.Array.from_buffers(pa.large_string(), len(starts) - 1, buffers)


def split_text(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[total] of UTF-8, int64[n] bytes of each) of a fresh string[n] without nulls."""
    ends = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1)
    joined = np.frombuffer(texts.buffers()[2] or b"", np.uint8, int(ends[-1]))
    return joined, np.diff(ends).astype(np.int64)


def hexadecimal(digests: np.ndarray, valid: np.ndarray) -> pa.Array:
    """string[n] of uint8[n, b] digests; null where bool[n] is False."""
    n, size = digests.shape
    text = _HEX[digests.reshape(-1)]
    starts = np.arange(n + 1, dtype=np.int32) * np.int32(2 * size)
    mask = np.packbits(valid, bitorder="little")
    buffers = [pa.py_buffer(each) for each in (mask, starts, text)]
    return pa.Array.from_buffers(pa.string(), n, buffers)
