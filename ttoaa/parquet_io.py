"""Reading Parquet files, with nothing of Python in the hands of Arrow's threads.

Arrow reads ahead in threads of its own. Given a Python file (which is what pandas gives it), one of
them may still let go of it while the interpreter ends, and that aborts the process: in about a
third of all short commands, all their work done.

Outcome tables on disk: written whole, and each says which plan and checkpoint it was made of.
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
    """The table in that file; `options` are those of pyarrow.parquet.read_table.

    Raises OSError where the file cannot be read, and what Arrow raises where it is damaged.
    """
    with open(path, "rb"):
        pass  # what cannot be opened: Python's error says more
    with pa.OSFile(os.fspath(path)) as file:
        return pq.read_table(file, columns=None if columns is None else list(columns), **options)


OUTCOME_COLUMNS = ("item", "condition", "outcome", "value")
_SOURCE = b"ttoaa.source"


def write_outcomes(table: pd.DataFrame, path: pathlib.Path, source: Mapping[str, str]) -> None:
    """Writes a tidy table whole or not at all; `source` is what it was made of."""
    absent = [name for name in OUTCOME_COLUMNS if name not in table]
    if absent:
        raise ValueError(f"an outcome table needs the column {absent[0]!r}")
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), _SOURCE: json.dumps(dict(source)).encode()}
    buffer = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(metadata), buffer, write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def read_outcomes(path: pathlib.Path) -> pd.DataFrame:
    """Raises ValueError where it is damaged: pages are checked against their checksums."""
    with _damage_told(path):
        return read_parquet(path, page_checksum_verification=True).to_pandas()


def outcome_source(path: pathlib.Path) -> dict[str, str] | None:
    """What a table was made of; None where there is no table, or one that does not say.

    Raises ValueError where it is damaged, in its pages too.
    """
    if not path.exists():
        return None
    with _damage_told(path):
        table = read_parquet(path, page_checksum_verification=True)
        metadata = table.schema.metadata or {}
        return json.loads(metadata[_SOURCE]) if _SOURCE in metadata else None


@contextlib.contextmanager
def _damage_told(path: pathlib.Path) -> Iterator[None]:
    """Arrow raises many kinds where a file is damaged."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's fault: the table may well be whole
        raise ValueError(f"{path} is damaged: remove it and evaluate again") from error
