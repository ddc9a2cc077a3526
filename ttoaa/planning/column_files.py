"""Arrays and tables that are written a part at a time: .npy files, scratch arrays, Parquet."""

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

from ttoaa.checksums import NPY_HEADERS

_HEADER = 128  # bytes


class NpyWriter:
    """Writes a .npy file row by row, from first to last."""

    def __init__(self, path: pathlib.Path, dtype: Any, row: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self._row = path, np.dtype(dtype), row
        self.count = 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")
        self._file.write(bytes(_HEADER))

    def append(self, rows: np.ndarray) -> None:
        """Append rows of shape [k, *row], converted to the file's dtype."""
        rows = np.ascontiguousarray(rows, self.dtype)
        self._file.write(rows.data)
        self._digest.update(rows.data)
        self.count += len(rows)

    def close(self) -> str:
        """Write the header and return the sha256 of all rows."""
        header = io.BytesIO()
        description = {
            "descr": self.dtype.str,
            "fortran_order": False,
            "shape": (self.count, *self._row),
        }
        np.lib.format.write_array_header_1_0(header, description)
        assert header.tell() == _HEADER
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()
        return self._digest.hexdigest()

    def mapped(self) -> np.ndarray:
        """Return the rows, memory-mapped; call it after `close`."""
        return map_npy(self.path)


def map_npy(path: pathlib.Path) -> np.ndarray:
    """Memory-map a .npy file as a read-only array.

    A plain array, since slicing NumPy's memmap costs a microsecond more.
    """
    with NPY_HEADERS:
        return np.asarray(np.load(path, mmap_mode="r"))


def create_npy(path: pathlib.Path, count: int, dtype: Any) -> np.ndarray:
    """Create a .npy file of shape [count], memory-mapped for writing in any order."""
    array = np.lib.format.open_memmap(path, "w+", dtype, (count,))
    with open(path, "r+b") as file:
        _allocate(file.fileno(), path.stat().st_size, str(path))
    return np.asarray(array)


def _allocate(handle: int, size: int, name: str) -> None:
    """Allocate disk space now: writing to a mapped page of a full disk kills the process."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from error


class Scratch:
    """Creates temporary arrays; those of `spill` bytes or more are on disk until freed."""

    def __init__(self, folder: pathlib.Path | None = None, spill: int = 1 << 26) -> None:
        self._folder, self._spill = folder, spill

    def __call__(self, count: int, dtype: Any) -> np.ndarray:
        """Return an uninitialised array of shape [count]."""
        size = count * np.dtype(dtype).itemsize
        if self._folder is None or size < self._spill:
            return np.empty(count, dtype)
        handle, name = tempfile.mkstemp(dir=self._folder)
        try:
            _allocate(handle, size, name)
            return np.asarray(np.memmap(name, dtype, "r+", shape=(count,)))
        finally:
            os.close(handle)
            os.unlink(name)


_QUEUED = 3  # row groups that wait to be encoded
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


class TableWriter:
    """Writes Parquet tables in a background thread, one row group at a time.

    Arrow releases Python's lock, so it encodes a group while Python makes the next ones. An error
    is raised by a later call, at the latest when the `with` block ends.
    """

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._waiting: collections.deque[concurrent.futures.Future[None]] = collections.deque()

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    @contextlib.contextmanager
    def writer(
        self, path: pathlib.Path, schema: pa.Schema, dictionaries: Sequence[str]
    ) -> Iterator[Callable[[pa.Table], None]]:
        """Yield a function that appends a row group; `dictionaries` are columns of few values."""
        options = {"compression": "lz4", "use_dictionary": list(dictionaries)}
        table = pq.ParquetWriter(path, schema, write_statistics=False, **options)
        yield lambda rows: self._submit(table.write_table, rows)
        self._submit(table.close)

    def _submit(self, call: Callable[..., None], *arguments: pa.Table) -> None:
        self._wait(_QUEUED)
        self._waiting.append(self._pool.submit(call, *arguments))

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left:
            self._waiting.popleft().result()


def join_text(joined: np.ndarray, starts: np.ndarray) -> pa.Array:
    """Return large_string[n] over uint8[total] of UTF-8 and int64[n + 1] starts, without a copy."""
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(joined)]
    return pa.Array.from_buffers(pa.large_string(), len(starts) - 1, buffers)


def split_text(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (uint8[total] of UTF-8, int64[n] sizes) of a string[n] without nulls or offset."""
    ends = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1)
    joined = np.frombuffer(texts.buffers()[2] or b"", np.uint8, int(ends[-1]))
    return joined, np.diff(ends).astype(np.int64)


def hexadecimal(digests: np.ndarray, valid: np.ndarray) -> pa.Array:
    """Return string[n] of uint8[n, b] digests, null where bool[n] `valid` is False."""
    n, size = digests.shape
    text = _HEX[digests.reshape(-1)]
    starts = np.arange(n + 1, dtype=np.int32) * np.int32(2 * size)
    mask = np.packbits(valid, bitorder="little")
    buffers = [pa.py_buffer(each) for each in (mask, starts, text)]
    return pa.Array.from_buffers(pa.string(), n, buffers)
