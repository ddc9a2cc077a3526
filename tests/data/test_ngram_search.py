import concurrent.futures
import dataclasses
import hashlib
import itertools

import numpy as np
import pytest

from ttoaa.data import ngram_search as module
from ttoaa.data.corpus import Corpus, Manifest, Shard
from ttoaa.data.ngram_search import (
    Occurrences,
    Patterns,
    merge,
    pieces,
    scan,
    scan_path,
    scan_piece,
)

LENGTH = 16
SIZES = {"train": [103, 40, 7, 5, 64, 200], "reserve": [33, 50]}


@pytest.fixture
def made(tmp_path):
    """(corpus, the tokens of its shards): few ids, so that short patterns occur by chance."""
    rng = np.random.default_rng(0)
    arrays, shards = {}, []
    (tmp_path / "tokenizer.json").write_text("{}")
    for split, sizes in SIZES.items():
        arrays[split] = [rng.integers(0, 5, size) for size in sizes]
        for k, array in enumerate(arrays[split]):
            raw = array.astype("<u2").tobytes()
            (tmp_path / f"{split}-{k}.bin").write_bytes(raw)
            digest = hashlib.sha256(raw).hexdigest()
            shards.append(Shard(f"{split}-{k}.bin", split, len(array), 1, digest))
    shards = shards[-1:] + shards[:-1]  # splits may be mixed in the manifest
    arrays["reserve"] = arrays["reserve"][::-1]
    digest = hashlib.sha256(b"{}").hexdigest()
    manifest = Manifest(1, "uint16", 5, digest, 0, (5, 5), {}, "", "", {}, tuple(shards))
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    return Corpus.open(tmp_path), arrays


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "_PIECE", 100)
    monkeypatch.setattr(module, "_BLOCK", 37)


def sequences(arrays, seed=3):
    rng = np.random.default_rng(seed)
    joined = np.concatenate(arrays["train"])
    cut = [(rng.integers(0, 380), n) for n in (2, 3, 9, 12, 16, 30)]
    seams = np.cumsum(SIZES["train"])[:-1] - 5
    return [joined[i : i + n] for i, n in [*cut, *((seam, 11) for seam in seams)]]


def expected(arrays, split, patterns, length):
    """By slices of Python lists."""
    if length:
        rows = [
            array[i : i + length].tolist()
            for array in arrays[split]
            for i in range(0, len(array) - length + 1, length)
        ]
    else:
        rows = [np.concatenate(arrays[split]).tolist()]
    return [
        (number * len(row) + i, k)
        for number, row in enumerate(rows)
        for i, k in itertools.product(range(len(row)), range(len(patterns)))
        if row[i : i + len(patterns[k])] == patterns[k].tolist()
    ]


def pairs(found):
    return list(zip(found.where.tolist(), found.pattern.tolist(), strict=True))


@pytest.mark.parametrize("split", ["train", "reserve"])
@pytest.mark.parametrize("length", [None, LENGTH, 40, 250])
def test_windows_and_the_running_stream_are_as_by_hand(made, split, length):
    corpus, arrays = made
    patterns = sequences(arrays)
    there = expected(arrays, split, patterns, length)
    assert pairs(scan(corpus, split, Patterns(patterns), length)) == there
    if split == "train" and length != 250:
        assert len(there) > 10


def test_across_shards_only_in_the_stream(made):
    corpus, arrays = made
    seams = [p for p in sequences(arrays) if len(p) == 11]
    stream = scan(corpus, "train", Patterns(seams))
    assert set(np.cumsum(SIZES["train"])[:-1] - 5) <= set(stream.where.tolist())


def test_pieces_in_processes_and_in_any_order_are_the_same_file(made):
    corpus, arrays = made
    patterns = Patterns(sequences(arrays))
    stored = corpus.folder / "patterns.npz"
    patterns.save(stored)
    for length in (None, LENGTH):
        scan(corpus, "train", patterns, length, workers=3)
        path = scan_path(corpus, "train", patterns, length)
        ours = path.read_bytes()
        work = pieces(corpus, "train", length)[::-1]
        assert len(work) > 2
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            calls = [pool.submit(scan_piece, corpus.folder, p, stored, length) for p in work]
            merge(call.result() for call in calls).save(path)
        assert path.read_bytes() == ours


def test_a_killed_scan_goes_on(made, monkeypatch):
    corpus, arrays = made
    patterns = Patterns(sequences(arrays))
    whole = pairs(scan(corpus, "train", patterns))
    path = scan_path(corpus, "train", patterns, None)
    path.unlink()
    done = []

    def break_at_third(corpus, piece, *arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(piece)
        return scan_piece(corpus, piece, *arguments)

    monkeypatch.setattr(module, "scan_piece", break_at_third)
    with pytest.raises(KeyboardInterrupt):
        scan(corpus, "train", patterns, workers=1)
    assert not path.exists() and len(done) == 2
    again = []
    monkeypatch.setattr(
        module, "scan_piece", lambda c, p, *a: again.append(p) or scan_piece(c, p, *a)
    )
    assert pairs(scan(corpus, "train", patterns, workers=1)) == whole
    assert not set(done) & set(again) and len(done) + len(again) == 5
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert pairs(scan(corpus, "train", patterns)) == whole and len(again) == 3  # it is stored


@pytest.mark.parametrize(("length", "stop"), [(None, 151), (LENGTH, LENGTH * 7), (LENGTH, 10**9)])
def test_up_to_a_token(made, length, stop):
    corpus, arrays = made
    patterns = sequences(arrays)
    there = [(i, k) for i, k in expected(arrays, "train", patterns, length) if i < stop]
    assert pairs(scan(corpus, "train", Patterns(patterns), length, stop)) == there
    assert there


def test_a_corpus_in_the_order_of_a_file_has_no_stream(made):
    corpus, arrays = made
    corpus.manifest = dataclasses.replace(corpus.manifest, numbering=object())
    with pytest.raises(ValueError, match="windows in the order of a file, and no stream"):
        scan(corpus, "train", Patterns(sequences(arrays)))


def test_what_a_result_follows_from_names_it(made):
    corpus, arrays = made
    one, other = Patterns(sequences(arrays)), Patterns(sequences(arrays, 4))
    asked = [("train", one, None), ("train", one, 16), ("reserve", one, None), ("train", other, 16)]
    asked.append(("train", one, 16, 160))
    assert len({scan_path(corpus, *question) for question in asked}) == 5


def test_a_damaged_result_is_named(made):
    corpus, arrays = made
    patterns = Patterns(sequences(arrays))
    scan(corpus, "train", patterns)
    path = scan_path(corpus, "train", patterns, None)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=f"{path} is damaged: remove it"):
        scan(corpus, "train", patterns)


def test_nothing_to_find_and_nothing_to_read(made):
    corpus, _ = made
    assert pairs(scan(corpus, "train", Patterns([np.full(3, 9)]), 1000)) == []
    assert pairs(merge([])) == []
    assert isinstance(scan(corpus, "train", Patterns([np.full(99, 9)])), Occurrences)
