import collections
import dataclasses
import errno
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import ttoaa
from ttoaa.data.corpus import Corpus
from ttoaa.data.prepare import document_statistics
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.prepare.workers import Local
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE
from ttoaa.locks import exclusive

NUMBERS = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
WORDS = [*NUMBERS, "<|endoftext|>", "⟨r0⟩", "☃", "\n\n"]


@pytest.fixture(scope="module")
def texts():
    """204 documents, 160 different ones: many occur twice, one six times."""
    rng = np.random.default_rng(0)
    unique = [" ".join(rng.choice(WORDS, rng.integers(20, 400))) for _ in range(160)]
    documents = unique + unique[:39] + [unique[50]] * 5
    return [documents[k] for k in rng.permutation(len(documents))]


@pytest.fixture(scope="module")
def config(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "all.txt").write_text("\n%%%\n".join(texts))
    source = TextFiles([str(folder)], separator="\n%%%\n")
    return Prepare(source, TrainBPE(400, 20), reserve_fraction=0.2, shard_characters=30_000)


@pytest.fixture(scope="module")
def corpus(config, tmp_path_factory):
    return prepare(config, tmp_path_factory.mktemp("made") / "corpus", progress=False)


def documents(corpus, split):
    """The texts of a split, read with NumPy alone and cut at EOS."""
    found = []
    for path in sorted(corpus.folder.glob(f"{split}-*.bin")):
        tokens = np.fromfile(path, "<u2")
        assert tokens[-1] == corpus.eos_id
        ends = np.flatnonzero(tokens == corpus.eos_id)
        pieces = np.split(tokens, ends + 1)[:-1]
        found += [corpus.tokenizer.decode(piece[:-1]) for piece in pieces]
    return found


def test_every_document_is_there_once(corpus, texts):
    found = documents(corpus, "train") + documents(corpus, "reserve")
    assert collections.Counter(found) == collections.Counter(texts)
    assert sum(corpus.manifest.documents.values()) == len(texts)


def test_the_reserve_is_disjoint_by_document(corpus, texts):
    train, reserve = documents(corpus, "train"), documents(corpus, "reserve")
    assert not set(train) & set(reserve)
    assert corpus.manifest.documents == {"train": len(train), "reserve": len(reserve)}
    assert 0.1 < len(reserve) / len(texts) < 0.3


def test_reserved_ids_are_in_no_shard(corpus):
    start, stop = corpus.manifest.reserved_ids
    assert stop == corpus.vocab_size == 400 and stop - start >= 20
    for path in corpus.folder.glob("*.bin"):
        assert np.fromfile(path, "<u2").max() < start


def test_the_manifest_tells_every_shard(corpus):
    shards = corpus.manifest.shards
    assert {shard.name for shard in shards} == {path.name for path in corpus.folder.glob("*.bin")}
    assert len(shards) > 6
    for split in ("train", "reserve"):
        counted = sum(shard.documents for shard in shards if shard.split == split)
        assert counted == corpus.manifest.documents[split]
    assert corpus.manifest.dtype == "uint16"
    names = {path.name for path in corpus.folder.iterdir()} - {shard.name for shard in shards}
    assert names == {"manifest.json", "tokenizer.json", "ledger.json", "leases"}
    assert not list((corpus.folder / "leases").iterdir())


def test_preparing_again_does_nothing(config, corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()}
    assert prepare(config, corpus.folder, progress=False).fingerprint == corpus.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reserve_fraction": 0.3}, "made with reserve_fraction 0.2, now it would be 0.3"),
        (
            {"tokenizer": TrainBPE(401, 20)},
            "made with tokenizer.vocab_size 400, now it would be 401",
        ),
        (
            {"tokenizer": ExistingTokenizer("x")},
            "made with tokenizer TrainBPE, now it would be ExistingTokenizer",
        ),
    ],
)
def test_another_config_is_refused(config, corpus, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(dataclasses.replace(config, **changes), corpus.folder, progress=False)


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


def test_too_little_room_is_an_error_before_writing(config, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"may need \d\.\d MB and the disk has 0\.1 MB free"):
        prepare(config, tmp_path / "c", progress=False)
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"unfinished", "leases"}


def test_the_room_asked_for_is_enough_for_text_of_many_bytes_a_character(tmp_path, monkeypatch):
    """Rare ideographs of four bytes, none of which gets a token of its own."""
    rng = np.random.default_rng(0)
    rare = rng.integers(0x20000, 0x2A000, (60, 200))
    (tmp_path / "a.txt").write_text("%".join("".join(map(chr, row)) for row in rare))
    source = TextFiles([str(tmp_path)], separator="%")
    wide = Prepare(source, TrainBPE(320, 20))
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match="may need") as error:
            prepare(wide, tmp_path / "c", progress=False)
    asked = 1e6 * float(re.search(r"need ([\d.]+) MB", str(error.value))[1])
    tokens = sum(s.tokens for s in prepare(wide, tmp_path / "c", progress=False).manifest.shards)
    assert 4 * 60 * 200 < 2 * tokens < asked


def test_a_disk_that_fills_leaves_nothing_half_written(config, tmp_path, monkeypatch):
    def full(descriptor):
        if list((tmp_path / "c").glob("*.bin")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*00000\.bin'"):
            prepare(config, tmp_path / "c", progress=False)
    assert not list(tmp_path.rglob("*.tmp-*"))
    prepare(config, tmp_path / "c", progress=False)


def test_a_bad_tokenizer_is_found_before_text_is_read(tmp_path):
    config = Prepare(TextFiles(["nowhere"]), ExistingTokenizer("missing.json"))
    with pytest.raises(ValueError, match=r"missing\.json is not a readable tokenizer"):
        prepare(config, tmp_path / "c", progress=False)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_text_too_small_to_split_is_refused(tmp_path, count):
    (tmp_path / "a.jsonl").write_text('{"text": "only one"}\n' * count)
    config = Prepare(TextFiles([str(tmp_path)]), TrainBPE(400, 20))
    with pytest.raises(ValueError, match=f"of {count} documents .* cut it into more documents"):
        prepare(config, tmp_path / "c", progress=False)


def test_text_that_is_no_unicode_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "\\ud800"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2 is not valid Unicode"):
        prepare(Prepare(TextFiles([str(tmp_path)])), tmp_path / "c", progress=False)


def test_a_tokenizer_that_finds_eos_in_text_is_refused(config, corpus, tmp_path):
    content = (corpus.folder / "tokenizer.json").read_text()
    assert '"special": true' in content
    path = tmp_path / "plain.json"
    path.write_text(content.replace('"special": true', '"special": false'))
    assert Tokenizer(path).eos_id in Tokenizer(path).encode("<|endoftext|>")
    config = dataclasses.replace(config, tokenizer=ExistingTokenizer(str(path)))
    with pytest.raises(ValueError, match=r"all\.txt:\d+ has text that .* encodes as EOS"):
        prepare(config, tmp_path / "c", progress=False)


def test_a_large_vocabulary_takes_four_bytes(config, corpus, tmp_path):
    path = str(corpus.folder / "tokenizer.json")
    wide = dataclasses.replace(config, tokenizer=ExistingTokenizer(path, vocab_size=2**16 + 1))
    wide = prepare(wide, tmp_path / "c", progress=False)
    assert wide.manifest.dtype == "uint32"
    n = wide.num_windows("train", 64)
    assert n == corpus.num_windows("train", 64)
    np.testing.assert_array_equal(
        wide.windows("train", np.arange(n), 64), corpus.windows("train", np.arange(n), 64)
    )
