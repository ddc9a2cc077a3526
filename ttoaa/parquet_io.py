"""Read Parquet files through native handles; write and read outcome tables.

pandas gives Arrow Python file objects. Arrow's threads may release one while the interpreter exits,
which aborts the process: in about a third of all short commands, after all their work.

Outcome tables are written whole, and record the plan and the checkpoint that they were made from.
"""

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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
_SOURCE = b"ttoaa.source"


def write_outcomes(table: pd.DataFrame, path: pathlib.Path, source: Mapping[str, str]) -> None:
    """Write a tidy table, whole or not at all; `source` records what it was made from."""
    absent = [name for name in OUTCOME_COLUMNS if name not in table]
    if absent:
        raise ValueError(f"an outcome table needs the column {absent[0]!r}")
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), _SOURCE: json.dumps(dict(source)).encode()}
    buffer = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(metadata), buffer, write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def read_outcomes(path: pathlib.Path) -> pd.DataFrame:
    """Read an outcome table; ValueError where a page does not have its checksum."""
    with _one_line_damage(path):
        return read_parquet(path, page_checksum_verification=True).to_pandas()


def outcome_source(path: pathlib.Path) -> dict[str, str] | None:
    """Return what a table was made from; None for a missing table, or one without a record.

    Raises ValueError where it is damaged, in its pages too.
    """
    if not path.exists():
        return None
    with _one_line_damage(path):
        table = read_parquet(path, page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        return json.loads(metadata[_SOURCE]) if _SOURCE in metadata else None


@contextlib.contextmanager
def _one_line_damage(path: pathlib.Path) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into a ValueError of one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault, not the table's
        raise ValueError(f"{path} is damaged: remove it and evaluate again") from error
