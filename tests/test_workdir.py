import os
import pathlib

import pytest

from ttoaa.json_io import read_json
from ttoaa.workdir import Workdir, atomic_writer, write_bytes, write_json, write_text


def test_seed_0_has_the_plain_names_and_others_their_number():
    root = pathlib.Path("/studies/a")
    plain, third = Workdir(root), Workdir(root, 3)
    assert plain.run("control") == root / "control" and plain.run("run") == root / "run"
    assert third.run("control") == root / "control-s3" and third.plan == root / "plan-s3"
    assert plain.tables == root / "tables" and third.tables == root / "tables-s3"
    assert third.corpus == plain.corpus == root / "corpus"
    assert third.config == root / "config.gin" and third.summary == root / "summary.json"
    table = root / "tables-s3/run/00000042/canaries.parquet"
    assert third.table("run", 42, "canaries") == table


def test_another_run_is_refused():
    with pytest.raises(ValueError, match="not 'contrl'"):
        Workdir(pathlib.Path("x")).run("contrl")


def test_seeds_are_those_that_something_was_made_for(tmp_path):
    assert Workdir(tmp_path / "none").seeds() == []
    for name in ("corpus", "tables-s9", "run-s12", "control-s2", "plan-old", "control-s2.bak"):
        (tmp_path / name).mkdir()
    assert Workdir(tmp_path).seeds() == [2, 12]
    (tmp_path / "plan").mkdir()
    assert Workdir(tmp_path, seed=5).seeds() == [0, 2, 12]


def test_what_is_written_is_read(tmp_path):
    value = {"a": [1, 2.5, None], "é": "⟨eos⟩"}
    write_json(tmp_path / "deep/er/x.json", value)
    assert read_json(tmp_path / "deep/er/x.json") == value
    write_text(tmp_path / "t", "é\n")
    assert (tmp_path / "t").read_bytes() == "é\n".encode()
    write_bytes(tmp_path / "t", b"")
    assert (tmp_path / "t").read_bytes() == b""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "x.json"
    write_text(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.json'"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"] and path.read_text() == "old"


def test_the_error_of_another_file_stays_as_it_is(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*missing'"),
        atomic_writer(tmp_path / "x"),
    ):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(OSError, match=r"^a line of our own$"), atomic_writer(tmp_path / "x"):
        raise OSError("a line of our own")
    assert not list(tmp_path.iterdir())


def test_it_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *args: (order.append("fsync"), fsync(*args)))
    monkeypatch.setattr(os, "replace", lambda *args: (order.append("replace"), replace(*args)))
    write_text(tmp_path / "x", "text")
    assert order == ["fsync", "replace"]
