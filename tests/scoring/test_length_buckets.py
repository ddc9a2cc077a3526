import jax
import numpy as np
import pytest

from ttoaa.scoring import length_buckets
from ttoaa.scoring.length_buckets import Passes, head_chunks, in_windows, pack_requests, pass_rows


def request(n, start=1):
    return np.arange(1, n + 1), start


def test_rows_of_a_pass_follow_the_platform(monkeypatch):
    assert [pass_rows(n) for n in (32, 64, 96, 128, 160, 256, 4096)] == [8, 8, 4, 4, 2, 2, 2]
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert [pass_rows(length) for length in (32, 4096, 32_768)] == [512, 4, 1]
    assert pass_rows(4096, "cpu") == 2


def test_lengths_are_few_and_near():
    passes = Passes()
    lengths = {n: passes.length(n) for n in range(1, 4097)}
    assert [lengths[n] for n in (1, 32, 33, 256, 257, 320, 321, 1024, 1025)] == [
        *(32, 32, 64, 256),
        *(320, 320, 384, 1024, 1280),
    ]
    assert len(set(lengths.values())) == 24
    assert all(n <= length < max(n + 32, 1.25 * n) for n, length in lengths.items())
    assert all(passes.length(length) == length for length in set(lengths.values()))
    assert [Passes(step=8).length(n) for n in (5, 64, 65)] == [8, 64, 80]


def test_every_request_is_in_one_pass_of_its_own_shape():
    rng = np.random.default_rng(0)
    requests = [request(n, int(rng.integers(1, n))) for n in rng.integers(2, 300, 50)]
    seen = []
    for one in pack_requests(requests, Passes(rows=3)):
        R, L = one.tokens_RxL.shape
        assert R == 3 and 1 <= len(one.members) <= 3
        for row in range(R):
            wanted = np.flatnonzero(one.wanted_RxS[row])
            if row >= len(one.members):
                assert not len(wanted)
                continue
            tokens, start = requests[one.members[row]]
            assert Passes().length(len(tokens)) == L
            assert one.wanted_RxS.shape[1] == (32 if len(tokens) - start <= 32 else L)
            np.testing.assert_array_equal(
                one.tokens_RxL[row, wanted + one.first_R[row] + 1], tokens[start:]
            )
        seen += one.members
    assert sorted(seen) == list(range(50))


@pytest.mark.parametrize(
    ("n", "start", "span"), [(65, 33, 32), (65, 32, 96), (64, 1, 64), (9, 1, 32)]
)
def test_the_head_s_positions_at_their_edges(n, start, span):
    (one,) = pack_requests([request(n, start)], Passes(rows=1))
    assert one.wanted_RxS.shape == (1, span) and one.wanted_RxS.sum() == n - start
    assert one.first_R[0] + span <= one.tokens_RxL.shape[1]


def test_logits_at_a_time_are_bounded(monkeypatch):
    assert head_chunks(2, 256, 4096) == 1
    assert head_chunks(2, 1024, 100_352) == 4  # 256 positions of 2 rows; 334 would be 256 MiB
    assert head_chunks(512, 32, 100_352) == 32
    assert head_chunks(10**6, 96, 100_352) == 96
    monkeypatch.setattr(length_buckets, "_parts", lambda: 4)
    assert head_chunks(512, 32, 100_352) == 8


def test_windows_are_read_when_they_are_asked_for():
    source = iter([request(2)] * 7)
    found = in_windows(source, 3, 9)
    assert len(next(found)) == 3
    assert len(list(source)) == 4
    assert [len(each) for each in in_windows(iter([request(2)] * 7), 3, 9)] == [3, 3, 1]


@pytest.mark.parametrize("field", ["rows", "step", "window"])
def test_sizes_are_positive(field):
    with pytest.raises(
        ValueError, match=rf"Passes.{field} must be an integer of at least 1.*, not 0"
    ):
        Passes(**{field: 0})
