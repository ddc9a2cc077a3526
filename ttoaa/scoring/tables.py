"""Outcome tables on disk: written whole, and each says which plan and checkpoint it was made of."""

import io
import json
import pathlib
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ttoaa.workdir import write_bytes

COLUMNS = ("item", "condition", "outcome", "value")
_SOURCE = b"ttoaa.source"


def write(table: pd.DataFrame, path: pathlib.Path, source: Mapping[str, str]) -> None:
    """Writes a tidy table whole or not at all; `source` is what it was made of."""
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise ValueError(f"an outcome table needs the column {absent[0]!r}")
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), _SOURCE: json.dumps(dict(source)).encode()}
    buffer = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(metadata), buffer)
    write_bytes(path, buffer.getvalue())


def source_of(path: pathlib.Path) -> dict[str, str] | None:
    """What a table was made of; None where there is no table, or one that does not say."""
    if not path.exists():
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is damaged: remove it and evaluate again") from error
    return json.loads(metadata[_SOURCE]) if _SOURCE in metadata else None


def check_current(folder: pathlib.Path, plan: str, outcomes: Mapping[str, str]) -> None:
    """Raises ValueError for a table under `folder` that was not made of the plan of that hash.

    Nor of the outcome of that fingerprint, by the name of its experiment.
    """
    for path in sorted(folder.rglob("*.parquet")):
        source = source_of(path) or {}
        if source.get("plan") != plan:
            raise ValueError(f"{path} is of another plan: run python -m ttoaa.evaluate again")
        if source.get("outcome") != outcomes.get(path.stem, source.get("outcome")):
            raise ValueError(
                f"{path} is of an earlier version of that outcome: run python -m ttoaa.evaluate "
                "again"
            )
