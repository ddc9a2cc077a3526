import dataclasses
import time

import numpy as np
import pytest
from scipy import stats

from ttoaa.planning import allocator
from ttoaa.planning.allocator import PlacementError, Requests

LENGTH = 32


def make(lengths, positions=1000, fixed=None, low=0, high=None, seed=0):
    """Requests of those lengths, with random keys, free in [low, high) unless fixed."""
    n = len(lengths)
    keys = np.random.default_rng(seed).integers(0, 2**64, n, np.uint64)
    return Requests(
        key=keys,
        length=np.asarray(lengths, np.int64),
        low=np.full(n, low, np.int64),
        high=np.full(n, positions if high is None else high, np.int64),
        fixed=np.full(n, -1, np.int64) if fixed is None else np.asarray(fixed, np.int64),
        restricted=np.zeros(n, bool),
    )


def place(requests, length, at_once=1 << 20):
    """int64[n]: the address of each request, from what a sweep of the whole run gives in order."""
    n = len(requests.key)
    rows = np.concatenate([[1], requests.high[~requests.restricted], requests.fixed // length + 1])
    made = allocator.Allocator(n, requests.take, length, rows.max(), at_once=at_once)
    address, before = np.full(n, -1), -1
    for part, edits in made():
        assert len(part) == len(edits) and (np.diff(part) > 0).all()
        assert not len(part) or part[0] > before
        before = part[-1] if len(part) else before
        assert (address[edits] == -1).all()
        address[edits] = part
    assert (address >= 0).all()
    return address


def take(requests, chosen):
    """The requests of those indices, in that order."""
    return requests.take(chosen)


def join(*parts):
    fields = [f.name for f in dataclasses.fields(Requests)]
    return Requests(**{f: np.concatenate([getattr(part, f) for part in parts]) for f in fields})


def owners(requests, address, positions, length=LENGTH):
    """Who owns every token of the run, written one by one; -1 for none. Checks C3 on the way."""
    owner = np.full(positions * length, -1)
    for edit, start in enumerate(address.tolist()):
        stop = start + int(requests.length[edit])
        row, offset = divmod(start, length)
        assert offset + requests.length[edit] <= length, "an edit leaves its row"
        if requests.fixed[edit] < 0:
            assert requests.low[edit] <= row < requests.high[edit], "an edit leaves its range"
        else:
            assert start == requests.fixed[edit]
        assert (owner[start:stop] == -1).all(), "two edits overlap"
        owner[start:stop] = edit
    return owner


@pytest.mark.parametrize("share", [0.02, 0.2, 0.4])
def test_edits_are_disjoint_and_inside_rows(share):
    lengths = np.random.default_rng(1).integers(1, LENGTH + 1, int(share * 1000 * 2))
    requests = make(lengths)
    owner = owners(requests, place(requests, LENGTH), 1000)
    assert (owner >= 0).sum() == lengths.sum()


def test_mixed_with_fixed_edits_and_ranges():
    fixed = make([32, 5, 27, 1], fixed=[0, 64, 69, 999 * 32 + 31])
    early = make(np.full(300, 7), low=0, high=100, seed=1)
    late = make(np.full(300, 7), low=900, high=1000, seed=2)
    requests = join(early, fixed, late)
    owners(requests, place(requests, LENGTH), 1000)


def test_rows_and_offsets_are_uniform():
    """At 1% occupancy, where the exclusion of neighbours cannot be seen."""
    positions, size = 20_000, 5
    address = place(make(np.full(1200, size), positions, seed=5), LENGTH)
    rows = np.bincount(address // LENGTH * 20 // positions, minlength=20)
    offsets = np.bincount(address % LENGTH, minlength=LENGTH - size + 1)
    assert len(offsets) == LENGTH - size + 1
    assert 1e-4 < stats.chisquare(rows).pvalue < 1 - 1e-4
    assert 1e-4 < stats.chisquare(offsets).pvalue < 1 - 1e-4
    joint = stats.contingency.crosstab(address // LENGTH * 10 // positions, address % LENGTH // 7)
    assert stats.chi2_contingency(joint.count).pvalue > 1e-4


def test_ranges_are_uniform_inside_and_never_left():
    requests = make(np.full(2000, 3), 10_000, low=1400, high=2800)
    rows = place(requests, LENGTH) // LENGTH
    assert rows.min() >= 1400 and rows.max() < 2800
    assert 1e-4 < stats.chisquare(np.bincount((rows - 1400) // 70)).pvalue < 1 - 1e-4


def test_repetitions_land_independently():
    """Two equal requests of different keys share a row as often as chance has it."""
    address = place(make(np.full(4000, 1), 1000, seed=3), LENGTH)
    per_row = np.bincount(address // LENGTH, minlength=1000)
    # Binomial occupancy, thinned a little since two edits never share a token.
    assert 0.8 < per_row.var() / per_row.mean() < 1.1


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_order_of_requests_does_not_matter(share):
    """Permuted requests get the same addresses, also where most of them collide."""
    lengths = np.random.default_rng(0).integers(1, 9, int(share * 200 * LENGTH / 4.5))
    requests = make(lengths, 200)
    address = place(requests, LENGTH)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(lengths))
        np.testing.assert_array_equal(place(take(requests, order), LENGTH), address[order])


def test_adding_requests_moves_only_those_that_collide():
    first = make(np.full(500, 6), 2000, seed=1)
    added = make(np.full(500, 6), 2000, seed=2)
    alone = place(first, LENGTH)
    together = place(join(added, first), LENGTH)
    moved = np.flatnonzero(together[500:] != alone)
    newcomers = np.zeros(2000 * LENGTH, bool)
    for start in together[:500]:
        newcomers[start : start + 6] = True
    # Whoever moved had its place taken, by a newcomer or by one that a newcomer pushed away.
    taken = newcomers.copy()
    for start in together[500:][moved]:
        taken[start : start + 6] = True
    assert all(taken[alone[edit] : alone[edit] + 6].any() for edit in moved)
    # A newcomer overlaps an old edit with probability about 500 * 11 / 64,000, and wins half.
    assert 0 < len(moved) < 60
    assert not newcomers[alone[np.setdiff1d(np.arange(500), moved)]].any()


def test_without_collision_nothing_moves():
    first = make(np.full(20, 4), 100_000, seed=1)
    added = make(np.full(20, 4), 100_000, seed=2)
    together = place(join(first, added), LENGTH)
    np.testing.assert_array_equal(together[:20], place(first, LENGTH))
    np.testing.assert_array_equal(together[20:], place(added, LENGTH))


def test_a_clash_of_fixed_edits_names_both():
    requests = make([8, 8, 8, 8], fixed=[200, 96, -1, 103])
    with pytest.raises(PlacementError, match="cover the same tokens") as caught:
        place(requests, LENGTH)
    assert sorted(caught.value.edits) == [1, 3]


def test_fixed_edits_that_touch_are_no_clash():
    requests = make([8, 8, 16], fixed=[8, 0, 16])
    assert place(requests, LENGTH).tolist() == [8, 0, 16]


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_that_fills_the_run_to_the_last_token(seed):
    """Whole rows: random draws alone would never finish; the search must."""
    requests = make(np.full(150, LENGTH), 150, seed=seed)
    assert sorted(place(requests, LENGTH) // LENGTH) == list(range(150))


def test_single_tokens_fill_their_range_and_one_more_is_an_error():
    """The last edits take the holes that are left, and the one too many is named."""
    wall = make([LENGTH - 1] * 9, 20, fixed=[LENGTH * k for k in range(5, 14)])
    single = make([1] * 9, 20, low=5, high=14, seed=4)
    requests = join(wall, single)
    owner = owners(requests, place(requests, LENGTH), 20).reshape(20, LENGTH)
    assert (owner[5:14] >= 0).all() and (owner[:5] == -1).all() and (owner[14:] == -1).all()
    one_more = join(requests, make([1], 20, low=5, high=14, seed=9))
    with pytest.raises(PlacementError, match="no room is left") as caught:
        place(one_more, LENGTH)
    assert len(caught.value.edits) == 1 and caught.value.edits[0] >= 9


def test_the_search_is_uniform_over_what_is_left():
    """One free stretch of 9 addresses and one of 3, in a run of which nothing else is left."""
    rows = 400
    starts = [row * LENGTH for row in range(rows)]
    starts[7], starts[350] = 7 * LENGTH + 11, 350 * LENGTH + 5
    lengths = np.full(rows, LENGTH)
    lengths[7], lengths[350] = LENGTH - 11, LENGTH - 5
    wall = make(lengths, rows, fixed=starts)
    found = [
        int(place(join(wall, make([3], rows, seed=seed)), LENGTH)[-1]) for seed in range(100, 300)
    ]
    possible = [7 * LENGTH + k for k in range(9)] + [350 * LENGTH + k for k in range(3)]
    assert set(found) == set(possible)
    assert stats.chisquare([found.count(address) for address in possible]).pvalue > 1e-4


def test_edge_cases():
    assert place(make([]), LENGTH).shape == (0,)
    whole = make([LENGTH], 1)
    assert place(whole, LENGTH).tolist() == [0]


def test_addresses_beyond_32_bits():
    requests = make(np.full(1000, 100), 51_200_000)
    address = place(requests, 4096)
    assert address.max() > 2**37 and (address % 4096 + 100 <= 4096).all()


def test_two_hundred_thousand_edits_take_a_moment():
    lengths = np.random.default_rng(0).integers(1, 400, 200_000)
    requests = make(lengths, 2_048_000)
    started = time.perf_counter()
    address = place(requests, 4096)
    assert time.perf_counter() - started < 5  # measured: well under a second
    order = np.argsort(address)
    assert (address[order][:-1] + lengths[order][:-1] <= address[order][1:]).all()
