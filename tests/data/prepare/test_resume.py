"""Preparing again after a kill, in several processes, and one process at a time."""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import ttoaa
from ttoaa.data.corpus import Corpus
from ttoaa.data.prepare import document_statistics
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.prepare.workers import Local
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import TrainBPE
from ttoaa.locks import exclusive

CHILD = """
import os, signal, sys
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources import TextFiles
from ttoaa.data.vocabulary import TrainBPE

source, folder, writes = sys.argv[1], sys.argv[2], int(sys.argv[3])
replace = os.replace

def replace_until_killed(old, new):
    global writes
    if writes == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    writes -= 1
    replace(old, new)

os.replace = replace_until_killed
source = TextFiles([source], separator="\\n%%%\\n")
prepare(Prepare(source, TrainBPE(400, 20), 0.2, 30_000), folder, progress=False)
"""


def run_child(config, folder, writes):
    root = pathlib.Path(ttoaa.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", CHILD, config.source.paths[0], str(folder), str(writes)]
    return subprocess.run(command, env=environment, capture_output=True, text=True).returncode


def bits(folder):
    left_out = ("ledger.json", "leases")
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in left_out}


def test_another_process_makes_the_same_bytes(config, corpus, tmp_path):
    assert run_child(config, tmp_path / "c", writes=-1) == 0
    assert bits(tmp_path / "c") == bits(corpus.folder)


# The writes are: survey, sample, tokenizer, state; for each part one or two shards and its record.
@pytest.mark.parametrize("writes", [1, 2, 3, 8, 9, 10])
def test_killed_it_goes_on_where_it_stopped(config, corpus, tmp_path, writes):
    folder = tmp_path / "c"
    assert run_child(config, folder, writes) == -signal.SIGKILL
    with pytest.raises(ValueError, match="no finished corpus"):
        Corpus.open(folder)
    recorded = len(list(folder.glob("unfinished/part-*.json")))
    finished = {p: p.stat() for k in range(recorded) for p in folder.glob(f"*-{k:05d}.bin")}
    assert bool(finished) == (writes > 7)

    prepare(config, folder, progress=False)
    assert bits(folder) == bits(corpus.folder)
    for path, stat in finished.items():
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)


def test_leftovers_of_an_earlier_format_are_made_again(config, corpus, tmp_path):
    """Samples were pickles once: nothing reads them, and they go with what is unfinished."""
    folder = tmp_path / "c"
    assert run_child(config, folder, writes=2) == -signal.SIGKILL
    (sample,) = folder.glob("unfinished/sample-*.json")
    sample.rename(sample.with_suffix(".pickle")).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    prepare(config, folder, progress=False)
    assert bits(folder) == bits(corpus.folder) and not (folder / "unfinished").exists()


@pytest.fixture
def several(texts, tmp_path, monkeypatch):
    """A config of eight files, each surveyed and written apart."""
    monkeypatch.setattr(document_statistics, "GROUP_BYTES", 1)
    (tmp_path / "text").mkdir()
    for k in range(8):
        (tmp_path / "text" / f"{k}.txt").write_text("\n%%%\n".join(texts[k::8]))
    source = TextFiles([str(tmp_path / "text")], separator="\n%%%\n")
    return Prepare(source, TrainBPE(400, 20), reserve_fraction=0.2, shard_characters=10_000)


def test_several_processes_make_the_same_bytes(several, tmp_path):
    one = prepare(several, tmp_path / "one", progress=False, engine=Local(1))
    two = prepare(several, tmp_path / "two", progress=False, engine=Local(2))
    assert one.fingerprint == two.fingerprint
    assert bits(one.folder) == bits(two.folder)
    assert len(list(one.folder.glob("train-*.bin"))) > 16


def test_groups_of_files_do_not_change_the_bytes(several, tmp_path, monkeypatch):
    apart = prepare(several, tmp_path / "apart", progress=False, engine=Local(1))
    monkeypatch.setattr(document_statistics, "GROUP_BYTES", 10**9)
    whole = prepare(several, tmp_path / "whole", progress=False)
    assert bits(apart.folder) == bits(whole.folder)


def stop_after(parts):
    """An engine whose work is stopped once so many parts are written."""

    def run(task, pieces):
        written = 0
        for piece in pieces:
            for step in task(piece):
                yield step
                written = len(list(getattr(task, "records", pathlib.Path()).glob("part-*")))
                if written >= parts:
                    raise KeyboardInterrupt

    return run


def test_what_is_finished_is_neither_surveyed_nor_written_again(several, tmp_path, monkeypatch):
    whole = prepare(several, tmp_path / "whole", progress=False, engine=Local(1))
    with pytest.raises(KeyboardInterrupt):
        prepare(several, tmp_path / "c", progress=False, engine=stop_after(4))
    tokenized = []
    encode = Tokenizer.encode_batch
    with monkeypatch.context() as patched:
        patched.setattr(
            Tokenizer,
            "encode_batch",
            lambda self, texts: tokenized.extend(texts) or encode(self, texts),
        )
        patched.setattr(document_statistics.TakeSurvey, "__call__", None)
        prepare(several, tmp_path / "c", progress=False, engine=Local(1))
    assert bits(tmp_path / "c") == bits(whole.folder)
    read = [text for unit in several.source.units() for _, text in several.source.documents(unit)]
    assert tokenized == read[-len(tokenized) :]
    assert sum(map(len, tokenized)) < sum(map(len, read)) - 4 * 10_000


PROCESSES = """
import sys, time
from ttoaa.data.prepare import document_statistics, shard_writer
from ttoaa.data.prepare.workers import Local
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources import TextFiles
from ttoaa.data.vocabulary import TrainBPE

document_statistics.GROUP_BYTES = 1
write = shard_writer.WriteParts._write

def slowly(*arguments):  # workers import this file too
    time.sleep(0.2)
    yield from write(*arguments)

shard_writer.WriteParts._write = slowly
if __name__ == "__main__":
    source = TextFiles([sys.argv[1]], separator="\\n%%%\\n")
    config = Prepare(source, TrainBPE(400, 20), 0.2, 10_000)
    prepare(config, sys.argv[2], progress=False, engine=Local(2))
"""


def test_killed_with_its_processes_it_goes_on(several, tmp_path):
    (tmp_path / "child.py").write_text(PROCESSES)
    root = pathlib.Path(ttoaa.__file__).parent.parent
    command = [sys.executable, "child.py", several.source.paths[0], "c"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as child:
        while not (written := list((tmp_path / "c" / "unfinished").glob("part-*.json"))):
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    numbers = [path.stem.removeprefix("part-") for path in written]
    shards = [p for number in numbers for p in (tmp_path / "c").glob(f"*-{number}.bin")]
    before = {path: path.stat().st_mtime_ns for path in shards}
    prepare(several, tmp_path / "c", progress=False, engine=Local(1))
    whole = prepare(several, tmp_path / "whole", progress=False, engine=Local(1))
    assert bits(tmp_path / "c") == bits(whole.folder)
    assert shards and before == {path: path.stat().st_mtime_ns for path in shards}


def test_one_process_at_a_time_prepares_a_folder(config, tmp_path):
    with exclusive(tmp_path / "c", "prepare", "prepared", stale=0.5):
        with pytest.raises(ValueError, match=rf"/c is being prepared by .*-{os.getpid()}-.*stop"):
            prepare(config, tmp_path / "c", progress=False)
        assert {path.name for path in (tmp_path / "c").iterdir()} == {"leases"}


def test_who_waited_finds_what_the_other_made(config, corpus, tmp_path):
    folder, found = tmp_path / "c", []

    def wait():
        found.append(prepare(config, folder, progress=False))

    with exclusive(folder, "prepare", "prepared"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)
        shutil.copytree(corpus.folder, folder, dirs_exist_ok=True)
        before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    waiting.join()
    assert found[0].fingerprint == corpus.fingerprint
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}


def test_text_that_changed_under_an_unfinished_corpus_is_refused(config, tmp_path):
    shutil.copytree(config.source.paths[0], tmp_path / "text")
    source = dataclasses.replace(config.source, paths=[str(tmp_path / "text")])
    config = dataclasses.replace(config, source=source)
    assert run_child(config, tmp_path / "c", writes=8) == -signal.SIGKILL
    with pytest.raises(ValueError, match=r"made with reserve_fraction 0\.2, now it would be 0\.5"):
        prepare(dataclasses.replace(config, reserve_fraction=0.5), tmp_path / "c", progress=False)
    with open(tmp_path / "text" / "all.txt", "a") as file:
        file.write("more")
    with pytest.raises(ValueError, match=r"changed since .*/c was begun"):
        prepare(config, tmp_path / "c", progress=False)
