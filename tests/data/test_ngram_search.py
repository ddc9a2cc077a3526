"""Patterns against loops over Python lists; scans against patterns in tokens read by NumPy."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import pickle
import re

import numpy as np
import pytest
from damage import DAMAGES

from ttoaa.data import ngram_search
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


def brute(tokens, sequences):
    """By slices of Python lists."""
    tokens = list(map(int, tokens))
    sequences = [list(map(int, sequence)) for sequence in sequences]
    return [
        (where, number)
        for where in range(len(tokens))
        for number, sequence in enumerate(sequences)
        if tokens[where : where + len(sequence)] == sequence
    ]


def check(tokens, sequences):
    where, pattern = Patterns(sequences).find(tokens)
    assert where.dtype == pattern.dtype == np.int64
    found = list(zip(where.tolist(), pattern.tolist(), strict=True))
    assert found == brute(tokens, sequences)
    return found


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.int64, ">u2"])
@pytest.mark.parametrize("lengths", [[1], [2, 3], [7], [8], [9, 30], [13], [50], [50, 51, 90]])
def test_all_of_every_length_is_found(lengths, dtype, monkeypatch):
    monkeypatch.setattr(ngram_search, "_BLOCK", 300)
    monkeypatch.setattr(ngram_search, "_AROUND", 200)
    rng = np.random.default_rng(lengths)
    tokens = np.minimum(rng.zipf(1.3, 2000), 60_000).astype(dtype)
    ends = [(0, n) for n in lengths] + [(len(tokens) - n, n) for n in lengths]
    chosen = ends + [(rng.integers(0, 2000 - n), n) for n in lengths for _ in range(20)]
    sequences = [tokens[start : start + n] for start, n in chosen]
    for sequence in sequences[-5:]:  # and what differs in one token alone
        decoy = sequence.copy()
        decoy[rng.integers(len(decoy))] += 1
        sequences.append(decoy)
    found = check(tokens, sequences)
    assert {(start, k) for k, (start, _) in enumerate(chosen)} <= set(found)


def test_duplicates_prefixes_and_overlaps_are_all_told():
    tokens = np.array([5] * 40 + [6] + [5] * 20, np.uint16)
    fives = [np.full(n, 5) for n in (8, 8, 10, 20)]
    found = check(tokens, [*fives, np.array([5] * 9 + [6]), np.array([6] + [5] * 7)])
    assert sum(number == 3 for _, number in found) == 21 + 1


@pytest.mark.parametrize("alphabet", [1, 2, 3])
def test_text_that_repeats_itself(alphabet):
    rng = np.random.default_rng(alphabet)
    tokens = rng.integers(0, alphabet, 700)
    sequences = [tokens[i : i + n] for i, n in [(0, 16), (300, 16), (5, 24), (660, 40), (100, 33)]]
    assert len(check(tokens, sequences)) >= 5


def test_every_position_in_a_block_and_every_shift(monkeypatch):
    """Wherever it stands against the probes and the blocks, at both ends of the text too."""
    monkeypatch.setattr(ngram_search, "_BLOCK", 64)
    rng = np.random.default_rng(0)
    sequence = rng.integers(0, 1000, 50)
    patterns = Patterns([sequence])
    for where in range(151):
        tokens = rng.integers(0, 1000, 200)
        tokens[where : where + 50] = sequence
        assert [part.tolist() for part in patterns.find(tokens)] == [[where], [0]]
        tokens[where + where % 50] += 1
        assert patterns.find(tokens)[0].tolist() == []


def test_text_shorter_than_a_pattern():
    for size in (0, 1, 3, 7):
        tokens = np.zeros(size, np.uint16)
        assert check(tokens, [np.zeros(8, int), np.zeros(9, int)]) == []
    assert check(np.zeros(8, np.uint16), [np.zeros(8, int), np.zeros(9, int)]) == [(0, 0)]


def test_large_ids_are_not_taken_for_small_ones():
    tokens = np.arange(100, dtype=np.uint16)
    assert check(tokens, [np.arange(20, 40) + 2**16, np.arange(20, 40)]) == [(20, 1)]


def test_the_bits_say_no_of_almost_all_others():
    rng = np.random.default_rng(0)
    for count in (1, 1000, 100_000):
        mine, others = rng.integers(0, 2**64, (2, count), np.uint64)
        bits = ngram_search._BloomFilter(count)
        bits.add(mine)
        assert bits.may_hold(mine).all()
        assert bits.may_hold(others).mean() < 0.01


def test_saved_and_pickled_they_find_the_same(tmp_path):
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 9, 500)
    patterns = Patterns([tokens[i : i + n] for i, n in [(3, 12), (70, 9), (200, 60)]])
    patterns.save(tmp_path / "patterns.npz")
    for again in (Patterns.load(tmp_path / "patterns.npz"), pickle.loads(pickle.dumps(patterns))):
        assert again.fingerprint == patterns.fingerprint and again.longest == 60
        for ours, theirs in zip(again.find(tokens), patterns.find(tokens), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_fingerprints_tell_what_is_cut_otherwise():
    one, other = np.arange(10), np.arange(10, 30)
    prints = {
        Patterns([one, other]).fingerprint,
        Patterns([other, one]).fingerprint,
        Patterns([np.arange(30)]).fingerprint,
        Patterns([np.arange(20), np.arange(20, 30)]).fingerprint,
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "a scan needs patterns of at least one token each"),
        ([np.arange(3), np.arange(0)], "a scan needs patterns of at least one token each"),
        ([np.array([1, -1])], "patterns must be token ids, from 0 to"),
        ([np.array([2**32])], "patterns must be token ids, from 0 to"),
        ([np.array([0.5])], "patterns must be token ids, from 0 to"),
    ],
)
def test_bad_patterns_are_named(sequences, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Patterns(sequences)


@pytest.mark.parametrize("content", [b"", b"PK no zip", "cut", "other"])
def test_a_file_of_no_patterns_is_named(tmp_path, content):
    path = tmp_path / "p.npz"
    Patterns([np.arange(50)]).save(path)
    if content == "other":
        np.savez(path, words=np.arange(3))
    else:
        path.write_bytes(path.read_bytes()[:-30] if content == "cut" else content)
    with pytest.raises(ValueError, match=f"{path} has no patterns, or is damaged"):
        Patterns.load(path)


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
    monkeypatch.setattr(ngram_search, "_PIECE", 100)
    monkeypatch.setattr(ngram_search, "_BLOCK", 37)


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

    monkeypatch.setattr(ngram_search, "scan_piece", break_at_third)
    with pytest.raises(KeyboardInterrupt):
        scan(corpus, "train", patterns, workers=1)
    assert not path.exists() and len(done) == 2
    again = []
    monkeypatch.setattr(
        ngram_search, "scan_piece", lambda c, p, *a: again.append(p) or scan_piece(c, p, *a)
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
    with pytest.raises(ValueError, match="windows in the order of a file: scan with a length"):
        scan(corpus, "train", Patterns(sequences(arrays)))


def test_what_a_result_follows_from_names_it(made):
    corpus, arrays = made
    one, other = Patterns(sequences(arrays)), Patterns(sequences(arrays, 4))
    asked = [("train", one, None), ("train", one, 16), ("reserve", one, None), ("train", other, 16)]
    asked.append(("train", one, 16, 160))
    assert len({scan_path(corpus, *question) for question in asked}) == 5


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_result_is_made_again(made, damage):
    corpus, arrays = made
    patterns = Patterns(sequences(arrays))
    found = pairs(scan(corpus, "train", patterns))
    path = scan_path(corpus, "train", patterns, None)
    raw = path.read_bytes()
    damage(path)
    assert pairs(scan(corpus, "train", patterns)) == found and path.read_bytes() == raw


def test_nothing_to_find_and_nothing_to_read(made):
    corpus, _ = made
    assert pairs(scan(corpus, "train", Patterns([np.full(3, 9)]), 1000)) == []
    assert pairs(merge([])) == []
    assert isinstance(scan(corpus, "train", Patterns([np.full(99, 9)])), Occurrences)
