import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttoaa import parquet_io

READ = "import sys; from ttoaa import parquet; parquet.read(sys.argv[1])"


def test_it_reads_the_columns_asked(tmp_path):
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert parquet_io.read_parquet(tmp_path / "t.parquet").equals(table)
    assert parquet_io.read_parquet(str(tmp_path / "t.parquet"), ("b",)).equals(table.select(["b"]))
    with pytest.raises(FileNotFoundError):
        parquet_io.read_parquet(tmp_path / "none.parquet")


def test_a_process_that_ends_right_after_is_not_aborted(tmp_path):
    """With a Python file, about a third of them were."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), path)
    running = [
        subprocess.Popen([sys.executable, "-c", READ, path], stderr=subprocess.PIPE, text=True)
        for _ in range(12)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in running]
    assert ended == [("", 0)] * 12
