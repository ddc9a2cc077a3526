"""Reading Parquet files, with nothing of Python in the hands of Arrow's threads.

Arrow reads ahead in threads of its own. Given a Python file (which is what pandas gives it), one of
them may still let go of it while the interpreter ends, and that aborts the process: in about a
third of all short commands, all their work done.
"""

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def read(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, **options: Any
) -> pa.Table:
    """The table in that file; `options` are those of pyarrow.parquet.read_table.

    Raises OSError where the file cannot be read, and what Arrow raises where it is damaged.
    """
    with open(path, "rb"):
        pass  # what cannot be opened: Python's error says more
    with pa.OSFile(os.fspath(path)) as file:
        return pq.read_table(file, columns=None if columns is None else list(columns), **options)
