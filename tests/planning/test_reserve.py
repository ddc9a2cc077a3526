import hashlib

import numpy as np
import pytest
from scipy import stats

from ttoaa.data.order import mix64
from ttoaa.planning.reserve import assign, assign_reserve, draw_windows, request_keys, split_reserve

POOL = np.arange(3, 203)
NEEDS = {"canaries": 40, "forgetting": 64, "none": 0, "verbatim": 30}


M = 2**64 - 1


def mix(value):
    """The finaliser of SplitMix64 in plain integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & M
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & M
    return value ^ (value >> 31)


def keyed(what, seed, name, k, *tried):
    """The hashes that say in which order slots take turns, and where each would like to go."""
    text = "\x1f".join(["reserve", str(seed), name]).encode()
    named = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    slot = mix((named + k * 0xD6E8FEB86659FD93) & M)
    if what == "rank":
        return mix(slot ^ 0xD1B54A32D192ED03)
    return mix((slot + (tried[0] + 1) * 0x9E3779B97F4A7C15) & M)


def deferred_acceptance(needs, pool, seed):
    """Gale and Shapley's (1962) algorithm: slots propose, a window keeps the best one so far.

    All windows rank the slots alike, so its stable matching is what taking turns by rank gives.
    """
    slots = [(name, k) for name in needs for k in range(needs[name])]
    proposals = dict.fromkeys(slots, 0)
    held = {}
    waiting = list(slots)
    while waiting:
        slot = waiting.pop()
        window = keyed("wish", seed, *slot, proposals[slot]) % len(pool)
        proposals[slot] += 1
        rival = held.get(window)
        if rival is None or keyed("rank", seed, *slot) < keyed("rank", seed, *rival):
            held[window] = slot
            slot = rival
        if slot is not None:
            waiting.append(slot)
    at = {slot: int(pool[window]) for window, slot in held.items()}
    return {name: [at[name, k] for k in range(needs[name])] for name in needs}


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_stable_matching(seed):
    got = assign(NEEDS, POOL, seed)
    assert {name: windows.tolist() for name, windows in got.items()} == deferred_acceptance(
        NEEDS, POOL, seed
    )


@pytest.mark.parametrize("needs", [{"a": 100, "b": 100}, {"a": 200}, {"a": 199, "b": 1}])
def test_the_whole_pool_can_be_used(needs):
    got = assign(needs, POOL, 0)
    assert {name: len(windows) for name, windows in got.items()} == needs
    np.testing.assert_array_equal(np.sort(np.concatenate(list(got.values()))), POOL)


def test_nobody_shares_a_window():
    got = assign(NEEDS, POOL, 1)
    assert {name: len(windows) for name, windows in got.items()} == NEEDS
    together = np.concatenate(list(got.values()))
    assert len(np.unique(together)) == sum(NEEDS.values())
    assert np.isin(together, POOL).all() and together.dtype == np.int64


def test_the_order_of_names_does_not_matter():
    turned = assign(dict(reversed(NEEDS.items())), POOL, 2)
    for name, windows in assign(NEEDS, POOL, 2).items():
        np.testing.assert_array_equal(turned[name], windows)


@pytest.mark.parametrize("seed", range(5))
def test_another_name_moves_only_what_collides(seed):
    """Everyone else keeps each window at its index, but for those that are taken from them."""
    before = assign(NEEDS, POOL, seed)
    after = assign({"new": 20, **NEEDS}, POOL, seed)
    taken = after["new"].tolist()
    for name, windows in before.items():
        moved = windows != after[name]
        taken += after[name][moved].tolist()
    moved = np.concatenate([before[name][before[name] != after[name]] for name in NEEDS])
    # Whoever moved lost the window to the new name, or to another slot that had to move.
    assert np.isin(moved, taken).all()
    assert 0 < len(moved) <= 40


def test_windows_are_uniform_over_the_pool():
    counts = np.zeros(40)
    for seed in range(600):
        for windows in assign({"a": 4, "b": 4}, np.arange(40), seed).values():
            counts[windows] += 1
    # Draws without replacement vary less than a multinomial: compare with the exact factor.
    statistic = ((counts - 120) ** 2 / 120).sum() * 39 / (40 - 8)
    assert 1e-4 < stats.chi2.sf(statistic, 39) < 1 - 1e-4


def test_seeds_differ():
    assert set(assign({"a": 20}, POOL, 0)["a"]) != set(assign({"a": 20}, POOL, 1)["a"])


def test_too_much_is_an_error_that_names_the_demands():
    with pytest.raises(ValueError, match=r"200 windows.*a: 150, c: 51.*reserve_fraction") as caught:
        assign({"a": 150, "b": 0, "c": 51}, POOL, 0)
    assert "\n" not in str(caught.value)


def test_validation_windows_are_apart_and_depend_on_nothing_but_the_corpus():
    validation, pool = split_reserve(100, 30)
    assert len(validation) == 30 and len(pool) == 70
    np.testing.assert_array_equal(np.sort(np.concatenate([validation, pool])), np.arange(100))
    # Asking for more keeps the ones there were, so that two studies share most of their set.
    np.testing.assert_array_equal(split_reserve(100, 40)[0][:30], validation)
    assert validation.tolist() != sorted(validation.tolist())


def test_validation_may_take_all_but_no_more():
    assert len(split_reserve(5, 5)[1]) == 0
    with pytest.raises(ValueError, match=r"5 windows, and validation needs 6"):
        split_reserve(5, 6)


@pytest.mark.parametrize(("pool", "seed"), [(700, 0), (1000, 1)])
def test_many_slots_are_matched_as_few_are(pool, seed):
    """So many that they propose all at once, to a reserve that is full or nearly so."""
    needs = {"a": 400, "b": 300}
    windows = assign(needs, np.arange(pool) + 5, seed)
    assert {n: w.tolist() for n, w in windows.items()} == deferred_acceptance(
        needs, np.arange(pool) + 5, seed
    )


THREE = {"canaries": 40, "forgetting": 64, "none": 0}
DIRTY = np.array([2, 5, 6, 50, 51, 120, 121, 122, 199, 500])


@pytest.mark.parametrize("seed", range(5))
def test_who_had_a_dirty_window_has_another_and_no_one_else(seed):
    before, after = assign(THREE, POOL, seed), assign_reserve(THREE, POOL, DIRTY, seed)
    moved = 0
    for name in THREE:
        same = before[name] == after[name]
        np.testing.assert_array_equal(~same, np.isin(before[name], DIRTY))
        moved += np.count_nonzero(~same)
    given = np.concatenate(list(after.values()))
    assert moved > 0 and len(set(given.tolist())) == len(given) == 104
    assert set(given.tolist()) <= set(POOL.tolist()) - set(DIRTY.tolist())


def test_without_dirty_windows_it_is_the_assignment_itself():
    before, after = assign(THREE, POOL, 1), assign_reserve(THREE, POOL, DIRTY[:0], 1)
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
