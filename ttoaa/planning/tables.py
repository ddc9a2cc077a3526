"""Parquet tables written in row groups while the next one is being made."""

import concurrent.futures
import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SMALL = 1 << 22  # bytes of a group that are encoded sooner than a thread takes over
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)


@contextlib.contextmanager
def table_writer(
    path: pathlib.Path,
    schema: pa.Schema,
    dictionaries: Sequence[str],
    pool: concurrent.futures.Executor,
) -> Iterator[Callable[[pa.Table], None]]:
    """Gives what takes one row group after the other; `dictionaries` are columns of few values.

    Arrow encodes a group in `pool` while Python makes the next: it lets go of Python's lock.
    """
    options = {"compression": "lz4", "use_dictionary": list(dictionaries)}
    with pq.ParquetWriter(path, schema, write_statistics=False, **options) as writer:
        waiting: list[concurrent.futures.Future[None]] = []

        def write(rows: pa.Table) -> None:
            while waiting:
                waiting.pop().result()
            if rows.nbytes < _SMALL:
                writer.write_table(rows)
            else:
                waiting.append(pool.submit(writer.write_table, rows))

        yield write
        while waiting:
            waiting.pop().result()


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
