"""What Beam's workers make is what this process makes, to the byte; one goes on for the other."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import studies
from absl import flags
from absl.testing import flagsaver

from ttoaa import beam as beam_command
from ttoaa import command_line
from ttoaa.data import beam, ngram_search
from ttoaa.data.corpus import Corpus
from ttoaa.data.ngram_search import Patterns
from ttoaa.data.prepare import document_statistics
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.prepare.shard_writer import WriteParts
from ttoaa.data.prepare.workers import Local
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.mixture import Mixture, Pool
from ttoaa.data.vocabulary import TrainBPE

# DirectRunner would first ask the network for a runner in Go.
RUNNER = "--runner=apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"
HERE = beam.PipelineOptions([RUNNER])
MANY = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
TWO = beam.PipelineOptions([RUNNER, *MANY])
ALONE = Local(1)
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Six files, each surveyed and written apart; parts of a third of a file."""
    monkeypatch.setattr(document_statistics, "GROUP_BYTES", 1)
    rng = np.random.default_rng(5)
    (tmp_path / "text").mkdir()
    for name in "abcdef":
        texts = (" ".join(rng.choice(["eins", "zwei", "drei", "☃"], 60)) for _ in range(25))
        lines = "\n".join(json.dumps({"text": text}) for text in texts)
        (tmp_path / "text" / f"{name}.jsonl").write_text(lines)
    return Prepare(TextFiles([str(tmp_path / "text")]), TrainBPE(320, 20), 0.2, 2_500)


def bits(folder):
    left_out = ("ledger.json", "leases")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in left_out}


def test_beam_makes_the_bytes_of_the_local_way(config, tmp_path):
    ours = prepare(config, tmp_path / "ours", progress=False, engine=ALONE)
    theirs = beam.prepare_with_beam(config, tmp_path / "beam", HERE, progress=False)
    assert theirs.fingerprint == ours.fingerprint
    assert bits(theirs.folder) == bits(ours.folder)
    assert len(list(theirs.folder.glob("*.bin"))) > 18


def test_so_do_beams_worker_processes(config, tmp_path):
    """They write the parts; a pipeline takes seconds to start them, so this is the only one."""

    def engine(task, pieces):
        beams = beam.Pipeline(TWO, tmp_path / "c" / "unfinished" / "beam")
        return (beams if hasattr(task, "records") else ALONE)(task, pieces)

    ours = prepare(config, tmp_path / "ours", progress=False, engine=ALONE)
    theirs = prepare(config, tmp_path / "c", progress=False, engine=engine)
    assert bits(theirs.folder) == bits(ours.folder)


def stopping(engine, parts):
    """That engine, stopped before the last of the pieces that write parts."""

    def run(task, pieces):
        if hasattr(task, "records"):
            yield from engine(task, pieces[:parts])
            raise KeyboardInterrupt
        yield from engine(task, pieces)

    return run


@pytest.mark.parametrize("first", ["local", "beam"])
def test_one_engine_goes_on_where_the_other_stopped(config, tmp_path, first):
    whole = prepare(config, tmp_path / "whole", progress=False, engine=ALONE)
    folder = tmp_path / "c"
    engines = {"local": ALONE, "beam": beam.Pipeline(HERE, folder / "unfinished" / "beam")}
    with pytest.raises(KeyboardInterrupt):
        prepare(config, folder, False, stopping(engines.pop(first), 3))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.bin")}
    assert 6 <= len(before) < len(list(whole.folder.glob("*.bin")))
    (second,) = engines.values()
    prepare(config, folder, False, second)
    assert bits(folder) == bits(whole.folder)
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_bad_file_is_one_clear_error(config, tmp_path):
    with open(tmp_path / "text" / "d.jsonl", "a") as file:
        file.write('\n{"txt": 1}\n')
    with pytest.raises(ValueError, match=r"^[^\n]*d\.jsonl:26 has no 'text'[^\n]*$"):
        beam.prepare_with_beam(config, tmp_path / "c", HERE, progress=False)


def test_what_fails_around_the_work_is_beams_failure_in_a_line(config, tmp_path, monkeypatch):
    def unreadable(self, group):
        raise OSError(5, "Input/output error", group.units[0])
        yield

    monkeypatch.setattr(document_statistics.TakeSurvey, "__call__", unreadable)
    with pytest.raises(OSError, match=r"^the Beam pipeline failed: [^\n]*Input/output error[^\n]*"):
        beam.prepare_with_beam(config, tmp_path / "c", HERE, progress=False)


def test_a_worker_that_does_not_see_the_folder_says_so(config, tmp_path, monkeypatch):
    monkeypatch.setattr(beam.workdir, "write_bytes", lambda path, content: None)
    engine = beam.Pipeline(HERE, tmp_path / "beam")
    with pytest.raises(
        OSError, match=r"a worker does not see \S+/work\.json: all workers must share a file system"
    ):
        list(engine(document_statistics.TakeSurvey(config.source), ["anything"]))


def test_work_reads_back_from_json_as_it_was(config, tmp_path):
    groups = tuple(document_statistics.group_units(config.source, tmp_path / "s", 1))
    cuts = tuple(document_statistics.Cut(k, k, 3, 7) for k in range(2))
    corpus = prepare(config, tmp_path / "c", progress=False, engine=ALONE)
    source = Mixture([config.source, Pool([config.source], (0.1,))], [1, 1e-300])
    task = WriteParts(source, groups, corpus.tokenizer, 0.1, corpus.folder, tmp_path)
    written = json.dumps(beam.encode([task, cuts, {3: None}, "☃", True]))
    read, *rest = beam.decode(json.loads(written))
    assert rest == [cuts, {3: None}, "☃", True]
    tokenizers = read.tokenizer, corpus.tokenizer
    assert dataclasses.replace(read, tokenizer=None) == dataclasses.replace(task, tokenizer=None)
    assert len({(t.path, t.vocab_size, t.eos_id, t.fingerprint) for t in tokenizers}) == 1


def test_what_workers_cannot_import_or_read_is_one_clear_error():
    @dataclasses.dataclass
    class Local:
        pass

    with pytest.raises(ValueError, match=r"workers cannot import .*Local: move it to a module"):
        beam.encode(Local())
    with pytest.raises(ValueError, match="workers cannot be sent a ndarray: make it a dataclass"):
        beam.encode([np.zeros(3)])
    with pytest.raises(ValueError, match=r"os:system is not a dataclass"):
        beam.decode({"class": "os:system", "fields": {"command": "false"}})


@pytest.mark.parametrize("length", [None, 32])
def test_a_scan_by_beam_leaves_the_file_of_the_local_one(config, tmp_path, monkeypatch, length):
    corpus = prepare(config, tmp_path / "c", progress=False, engine=ALONE)
    patterns = some_patterns(corpus)
    monkeypatch.setattr(ngram_search, "_PIECE", 1 << 10)
    pieces = ngram_search.pieces(corpus, "train", length)
    path = ngram_search.scan_path(corpus, "train", patterns, length)
    ours = ngram_search.scan(corpus, "train", patterns, length)
    content = path.read_bytes()
    path.unlink()
    assert len(pieces) > 5 and len(ours.where) > 10

    looked, scan_piece = [], ngram_search.scan_piece
    monkeypatch.setattr(
        ngram_search, "scan_piece", lambda c, p, *x: looked.append(p) or scan_piece(c, p, *x)
    )
    theirs = beam.scan_with_beam(corpus, "train", patterns, HERE, length)
    np.testing.assert_array_equal(theirs.where, ours.where)
    np.testing.assert_array_equal(theirs.pattern, ours.pattern)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert sorted(looked, key=lambda piece: piece.start) == pieces  # each by Beam, none once more


def some_patterns(corpus):
    tokens = np.concatenate([np.fromfile(p, "<u2") for p in sorted(corpus.folder.glob("train-*"))])
    return Patterns([tokens[k : k + 9] for k in range(50, len(tokens) - 9, 400)])


def command(*arguments):
    """What the command exits with, or None."""
    with flagsaver.flagsaver():
        rest = flags.FLAGS(["beam", *map(str, arguments)], known_only=True)
        try:
            command_line.call("beam", beam_command.main, rest)
        except SystemExit as left:
            return left.code


def test_the_command_prepares_and_scans(tmp_path, capsys):
    rng = np.random.default_rng(2)
    text = "\n%%\n".join(" ".join(rng.choice(["ein", "zwei", "drei"], 60)) for _ in range(60))
    (tmp_path / "a.txt").write_text(text)
    workdir = f"--workdir={tmp_path / 'work'}"
    gin = f"--gin_file={studies.write_gin(tmp_path / 'gin', [str(tmp_path / 'a.txt')])}"
    assert command("prepare", workdir, gin, RUNNER) is None
    assert "/corpus is ready: " in capsys.readouterr().out
    assert command("prepare", workdir, RUNNER) is None
    assert "exists already" in capsys.readouterr().out
    corpus = Corpus.open(tmp_path / "work" / "corpus")

    tokens = np.fromfile(corpus.folder / "train-00000.bin", "<u2")[:12].tolist()
    (tmp_path / "p.jsonl").write_text(
        f'{{"tokens": {tokens}}}\n{{"text": "nowhere in it"}}\n{{"tokens": {tokens[:9]}}}\n'
    )
    asked = ("scan", workdir, "--split=train", RUNNER)
    assert command(*asked, f"--patterns={tmp_path / 'p.jsonl'}") is None
    told = capsys.readouterr().out
    assert re.search(r"beam: [\d,]+ occurrences of 2 of 3 patterns in train of", told)
    (path,) = (corpus.folder / "scans").iterdir()
    assert str(path) in told and ngram_search.Occurrences.load(path).where[0] == 0

    assert command(*asked) == "beam: scan needs --patterns"
    (tmp_path / "p.jsonl").write_text('{"text": "one"}\n{"txt": "two"}\n')
    wrong = command(*asked, f"--patterns={tmp_path / 'p.jsonl'}")
    assert "p.jsonl:2 has neither a text nor tokens" in wrong
    (tmp_path / "p.jsonl").write_text('{"text": "ein\u2028zwei\x85"}\n{"text": ""}\n')
    wrong = command(*asked, f"--patterns={tmp_path / 'p.jsonl'}")
    assert wrong.endswith("p.jsonl:2 has no tokens: remove that line")
    assert command(*asked, "--splt=reserve") == "beam: there is no --splt: did you mean --split?"
    assert command("plan", workdir).startswith("beam: name the task: ")


def test_without_beam_it_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['apache_beam'] = None; import ttoaa.data.beam"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1].endswith("pip install 'ttoaa[beam]'")
