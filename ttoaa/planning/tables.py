"""Parquet tables written in row groups while the next one is being made."""

import collections
import concurrent.futures
import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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
