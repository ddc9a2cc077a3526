"""Parquet without Python file objects, and outcome tables: what changed in one is seen."""

import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ttoaa import parquet_io

READ = "import sys; from ttoaa.parquet_io import read_parquet; read_parquet(sys.argv[1])"


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


SOURCE = {"plan": "a" * 64, "outcome": "b" * 64, "checkpoint": "c" * 64}


@pytest.fixture
def table():
    rows = range(60)
    return pd.DataFrame(
        {
            "item": [f"item-{k}" for k in rows],
            "condition": [f"{k % 3}x" for k in rows],
            "outcome": "loss",
            "value": [k / 7 for k in rows],
        }
    )


def test_a_table_comes_back_with_its_source(table, tmp_path):
    path = tmp_path / "a" / "b.parquet"
    assert parquet_io.outcome_source(path) is None
    parquet_io.write_outcomes(table, path, SOURCE)
    pd.testing.assert_frame_equal(parquet_io.read_outcomes(path), table)
    assert parquet_io.outcome_source(path) == SOURCE
    table.to_parquet(path)
    assert parquet_io.outcome_source(path) is None, "it does not say"


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_flipped_bit_is_seen_or_harmless(table, tmp_path, bit):
    path = tmp_path / "t.parquet"
    parquet_io.write_outcomes(table, path, SOURCE)
    whole, seen = path.read_bytes(), 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            source, found = parquet_io.outcome_source(path), parquet_io.read_outcomes(path)
        except ValueError as error:
            assert str(error) == f"{path} is damaged: remove it and evaluate again"
            seen += 1
            continue
        # Another source: the job makes the table again. A column that is gone: the report says so.
        if source != SOURCE or not set(parquet_io.OUTCOME_COLUMNS) <= set(found):
            seen += 1
        else:
            pd.testing.assert_frame_equal(found, table)
    assert seen > len(whole) / 7 / 3


def test_a_damaged_page_is_seen_by_who_asks_for_the_source_alone(table, tmp_path):
    path = tmp_path / "t.parquet"
    parquet_io.write_outcomes(table, path, SOURCE)
    whole = path.read_bytes()
    place = whole.index(str(table["item"].iloc[0]).encode())  # among the values
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match="is damaged: remove it"):
        parquet_io.outcome_source(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"no table"])
def test_no_table_at_all_is_named(tmp_path, content):
    path = tmp_path / "t.parquet"
    path.write_bytes(content)
    for read in (parquet_io.read_outcomes, parquet_io.outcome_source):
        with pytest.raises(ValueError, match=f"{path} is damaged: remove it and evaluate again"):
            read(path)


def test_a_machine_s_fault_is_not_the_table_s(table, tmp_path):
    """What cannot be read now may well be whole."""
    path = tmp_path / "t.parquet"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        parquet_io.outcome_source(path)
