import pickle
import re

import numpy as np
import pytest

from ttoaa.data import ngram_search
from ttoaa.data.ngram_search import Patterns


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
        bits = ngram_search._Bits(count)
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
        ([], "a scan needs patterns, each of at least one token"),
        ([np.arange(3), np.arange(0)], "a scan needs patterns, each of at least one token"),
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
    with pytest.raises(ValueError, match=f"{path} holds no patterns, or is damaged"):
        Patterns.load(path)
