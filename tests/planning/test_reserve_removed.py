import numpy as np
import pytest

from ttoaa.data.order import mix64
from ttoaa.planning.reserve import assign, assign_reserve, draw_windows, request_keys

POOL = np.arange(3, 203)
NEEDS = {"canaries": 40, "forgetting": 64, "none": 0}
DIRTY = np.array([2, 5, 6, 50, 51, 120, 121, 122, 199, 500])


@pytest.mark.parametrize("seed", range(5))
def test_who_had_a_dirty_window_has_another_and_no_one_else(seed):
    before, after = assign(NEEDS, POOL, seed), assign_reserve(NEEDS, POOL, DIRTY, seed)
    moved = 0
    for name in NEEDS:
        same = before[name] == after[name]
        np.testing.assert_array_equal(~same, np.isin(before[name], DIRTY))
        moved += np.count_nonzero(~same)
    given = np.concatenate(list(after.values()))
    assert moved > 0 and len(set(given.tolist())) == len(given) == 104
    assert set(given.tolist()) <= set(POOL.tolist()) - set(DIRTY.tolist())


def test_without_dirty_windows_it_is_the_assignment_itself():
    before, after = assign(NEEDS, POOL, 1), assign_reserve(NEEDS, POOL, DIRTY[:0], 1)
    assert {n: w.tolist() for n, w in before.items()} == {n: w.tolist() for n, w in after.items()}


def test_all_but_the_taken_ones_can_be_drawn():
    taken = POOL[::3]
    keys = request_keys(0, "x", np.arange(len(POOL) - len(taken)))
    drawn = draw_windows(keys, POOL, taken)
    assert sorted(drawn.tolist()) == sorted(set(POOL.tolist()) - set(taken.tolist()))
    with pytest.raises(ValueError, match=r"has 133 windows left .* 134 more are needed"):
        draw_windows(request_keys(0, "x", np.arange(134)), POOL, taken)


def test_draws_do_not_depend_on_the_order_and_hardly_on_others():
    pool = np.arange(10_000)
    mine, others = request_keys(3, "a", np.arange(300)), request_keys(3, "b", np.arange(200))
    alone = draw_windows(mine, pool, pool[:100])
    turned = draw_windows(mine[::-1], pool, pool[:100])[::-1]
    np.testing.assert_array_equal(alone, turned)
    both = draw_windows(np.concatenate([others, mine]), pool, pool[:100])
    assert len(set(both.tolist())) == 500
    assert 0 < np.count_nonzero(both[200:] != alone) < 12 or np.array_equal(both[200:], alone)
    assert not set(both.tolist()) & set(range(100))


def test_every_window_is_as_likely():
    pool = np.arange(50)
    counts = np.zeros(50)
    for seed in range(2000):
        counts[draw_windows(request_keys(seed, "x", np.arange(5)), pool, pool[:0])] += 1
    assert abs(counts - 200).max() < 5.5 * np.sqrt(200)


def test_the_last_free_windows_of_a_large_pool_are_dealt_by_rank():
    """As if each drew alone, the best rank first, from what those before it left."""
    pool = np.arange(200_000)
    taken = np.delete(pool, [5, 60_000, 123_456, 199_999])
    keys = request_keys(0, "x", np.arange(4))
    drawn, left = draw_windows(keys, pool, taken), taken
    for slot in np.argsort(mix64(keys ^ np.uint64(0xD1B54A32D192ED03))):
        assert drawn[slot] == draw_windows(keys[[slot]], pool, left)[0]
        left = np.append(left, drawn[slot])
    assert len(np.unique(left)) == len(pool)
