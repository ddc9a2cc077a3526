"""A study in an emulated bucket: a run that resumes there, and is scored on another machine.

`bucket_study.py` does the same with kills, two processes and a report, by hand.
"""

import buckets
import pytest
import studies

from ttoaa import bucket, dependence, evaluate, prepare, train
from ttoaa.data.corpus import Corpus
from ttoaa.evaluation.study_status import study_status
from ttoaa.gcs_objects import Object
from ttoaa.parquet_io import read_outcomes
from ttoaa.training.checkpoint_io import committed_steps, read_meta
from ttoaa.workdir import Workdir

URL = "gs://bucket/study"
MADE_LATER = ("finished.json", "ledger.json", "checkpoints/20", "checkpoints/30")


@pytest.fixture
def there(finished, monkeypatch, tmp_path):
    """The study in a bucket, with a run that was killed after step 10; goes to a machine."""
    local = finished[0]
    with buckets.emulated(monkeypatch, tmp_path / "one"):
        for name in ("config.gin", "corpus", "plan", "control", "run", "tables/control"):
            for path in [local / name, *(local / name).rglob("*")]:
                inner = path.relative_to(local).as_posix()
                if path.is_file() and not inner.startswith(tuple(f"run/{x}" for x in MADE_LATER)):
                    Object("bucket", f"study/{inner}").write(path.read_bytes())

        def go(machine):
            buckets.enter(monkeypatch, tmp_path / machine)
            return Workdir(bucket.local_path(URL))

        yield go


def test_it_ends_in_the_same_bits_and_tables(finished, there, capsys):
    local, one = Workdir(finished[0]), there("one")
    checkpoints = one.run("run") / "checkpoints"
    Object("bucket", "study/run/checkpoints/20/meta/metadata").write(b"of a kill")
    assert studies.main(train, URL) in (0, None)
    assert "is finished at step 30" in capsys.readouterr().out
    assert committed_steps(checkpoints) == [10, 20, 30]
    there_now, expected = (
        read_meta(folder / "checkpoints", 30) for folder in (one.run("run"), local.run("run"))
    )
    assert there_now["fingerprints"] == expected["fingerprints"]
    assert there_now["identity"] == expected["identity"]
    assert not checkpoints.joinpath("30").exists(), "it is in the bucket alone"
    two = there("two")
    assert studies.main(evaluate, URL, "--experiments=planted", "--steps=30") in (0, None)
    assert studies.records(two.run("run")) == studies.records(local.run("run"))
    one = there("one")
    bucket.pull(one.root)
    tables = [read_outcomes(each.table("run", 30, "planted")) for each in (one, local)]
    assert tables[0].equals(tables[1])
    study, _ = studies.config.load([one.config])
    (state,) = study_status(study, one.root)["seeds"]
    assert state["run"]["finished"] and state["run"]["checkpoints"] == [10, 20, 30]


def test_bursts_made_on_one_machine_are_not_made_on_another(there, capsys):
    flags = ("--checkpoints=20", "--burst_steps=8", "--share=0.1", "--burst_seeds=0")
    for machine, made in (
        ("one", "2 rows trained, 6 tables written"),
        ("two", "0 rows trained, 0 "),
    ):
        there(machine)
        assert studies.main(dependence, URL, *flags, "--rows=control,alone/planted") in (0, None)
        assert made in capsys.readouterr().out
    tables = [name for name, _ in Object("bucket", "study/bursts").files() if "/tables/" in name]
    assert sum(name.endswith(".parquet") for name in tables) == 6


@pytest.mark.parametrize("fetched", [False, True])
def test_prepare_removes_what_a_killed_fetch_left(finished, monkeypatch, tmp_path, fetched):
    local = finished[0]
    with buckets.emulated(monkeypatch, tmp_path / "one"):
        Object("bucket", "study/config.gin").write((local / "config.gin").read_bytes())
        for name in (".uploading", "tokenizer.json", "left"):
            Object("bucket", f"study/corpus/{name}").write(b"of another corpus")
        source = [f"--from=file://{local}/corpus"] if fetched else []
        assert studies.main(prepare, URL, *source) == 0
        buckets.enter(monkeypatch, tmp_path / "two")
        corpus = Corpus.open(bucket.local_path(URL) / "corpus")
        assert corpus.fingerprint == Corpus.open(local / "corpus").fingerprint
        assert not (corpus.folder / "left").exists()
        assert not Object("bucket", "study").child("corpus/left").look()
        assert not Object("bucket", "study/corpus.fetching").children(), "uploaded twice"
