"""Read Parquet files through native handles; write and read outcome tables.

pandas passes Python file objects to Arrow. If one of Arrow's threads releases such an object while
the interpreter exits, the process aborts. This happened in about a third of all short commands,
after their work was done.

Outcome tables are written atomically. Each records its plan, its checkpoint and the sha256 of its
file.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ttoaa.json_io import parse_json
from ttoaa.workdir import write_bytes


def read_parquet(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, **options: Any
) -> pa.Table:
    """Read a table; `options` are those of pyarrow.parquet.read_table.

    Raises OSError where the file cannot be read, and what Arrow raises where it is damaged.
    """
    with open(path, "rb"):
        pass  # Python's error says more than Arrow's
    with pa.OSFile(os.fspath(path)) as file:
        return pq.read_table(file, columns=None if columns is None else list(columns), **options)


OUTCOME_COLUMNS = ("item", "condition", "outcome", "value")
_EVALUATE = "remove it and evaluate again"
_SOURCE = b"ttoaa.source"
_SHA256 = b"ttoaa.sha256"
"""Metadata key of the sha256 of the whole file, computed with `_EMPTY` in place of itself."""


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


_EMPTY = _sha256(_SHA256)  # which no table contains by chance


def write_outcomes(table: pd.DataFrame, path: pathlib.Path, source: Mapping[str, str]) -> None:
    """Write an outcome table as `write_table` does; `source` records its plan and checkpoint."""
    absent = [name for name in OUTCOME_COLUMNS if name not in table]
    if absent:
        raise ValueError(f"an outcome table needs the column {absent[0]!r}")
    write_table(table, path, source)


def write_table(table: pd.DataFrame, path: pathlib.Path, source: Mapping[str, Any]) -> None:
    """Write a table atomically; `source` is JSON that says what it was made of.

    The file's checksum also covers the metadata, unlike page checksums.
    """
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), _SOURCE: json.dumps(dict(source)).encode()}
    arrow, buffer = arrow.replace_schema_metadata(metadata), io.BytesIO()
    with pq.ParquetWriter(buffer, arrow.schema, write_page_checksum=True) as writer:
        writer.write_table(arrow)
        writer.add_key_value_metadata({_SHA256: _EMPTY})
    content = buffer.getvalue()
    write_bytes(path, content.replace(_EMPTY, _sha256(content), 1))


def read_outcomes(path: pathlib.Path) -> pd.DataFrame:
    """Read an outcome table; raise ValueError if its checksum does not match."""
    with _one_line_damage(path, _EVALUATE):
        return _read_verified(path)[0].to_pandas()


def read_table(path: pathlib.Path, fix: str) -> tuple[pd.DataFrame, dict[str, Any], str]:
    """Return (what `write_table` wrote, its source, the sha256 in the file).

    Raises ValueError, with `fix`, if the file is damaged.
    """
    with _one_line_damage(path, fix):
        table, sha256 = _read_verified(path)
        metadata = table.schema.metadata or {}
        source = parse_json(metadata[_SOURCE], path, dict[str, Any])
        return table.to_pandas(), source, sha256.decode()


def outcome_source(path: pathlib.Path) -> dict[str, str] | None:
    """Return the recorded source of a table; None for a missing table, or one without a record.

    Raises ValueError if it is damaged.
    """
    if not path.exists():
        return None
    with _one_line_damage(path, _EVALUATE):
        metadata = _read_verified(path)[0].schema.metadata or {}
        if _SOURCE not in metadata:
            return None
        return parse_json(metadata[_SOURCE], path, dict[str, str])


def _read_verified(path: pathlib.Path) -> tuple[pa.Table, bytes]:
    """Return a table and its sha256; raise ValueError if it or a page's checksum does not match.

    Tables of earlier versions have only page checksums.
    """
    content = path.read_bytes()
    file = pa.BufferReader(content)
    recorded = (pq.read_metadata(file).metadata or {}).get(_SHA256)
    if recorded is not None and recorded != _sha256(content.replace(recorded, _EMPTY, 1)):
        raise ValueError("its checksum does not match its content")
    file.seek(0)
    return pq.read_table(file, page_checksum_verification=True), recorded or b""


@contextlib.contextmanager
def _one_line_damage(path: pathlib.Path, fix: str) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into a ValueError of one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault, not the table's
        raise ValueError(f"{path} is damaged: {fix}") from error
