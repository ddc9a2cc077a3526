import collections
import dataclasses
import errno
import os
import re
import shutil

import numpy as np
import pytest

from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE


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
    with pytest.raises(ValueError, match=r"cannot read the tokenizer missing\.json: No such"):
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
