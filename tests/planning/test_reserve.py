import hashlib
import itertools

import numpy as np
import pytest

from ttoaa.data.order import mix64
from ttoaa.planning.reserve import (
    count_shared_documents,
    deal_reserve,
    document_runs,
    draw_windows,
    request_keys,
)

LENGTH = 32
NONE = np.empty(0, np.int64)
RUN = np.repeat(np.arange(150), np.tile([1, 3, 6], 50))
"""150 runs of 1, 3 and 6 windows."""
NEEDS = {"canaries": [40, 20], "forgetting": [8] * 4, "none": []}


def documents_of(corpus):
    """For each reserve window the documents of which it holds a part, by reading all shards.

    A document that ends in the remainder of a shard, after its last window, counts as one with the
    first of the next shard.
    """
    manifest, found, document = corpus.manifest, [], 0
    for shard in manifest.shards:
        if shard.split == "reserve":
            tokens = np.fromfile(corpus.folder / shard.name, manifest.dtype).tolist()
            tokens = tokens[: len(tokens) // LENGTH * LENGTH]
            of_token = []
            for token in tokens:
                of_token.append(document)
                document += token == corpus.eos_id
            starts = range(0, len(tokens), LENGTH)
            found += [set(of_token[start : start + LENGTH]) for start in starts]
    return found


def test_runs_are_of_whole_documents(corpus):
    held, run = documents_of(corpus), document_runs(corpus, LENGTH)
    assert len(run) == len(held) == corpus.num_windows("reserve", LENGTH)
    by_run = {k: set().union(*itertools.compress(held, run == k)) for k in {*run.tolist()} - {-1}}
    for one, other in itertools.combinations(by_run.values(), 2):
        assert not one & other
    assert len(by_run) > 40 and np.mean(run >= 0) > 0.7
    # A window that is left out lies between two runs.
    for window in np.flatnonzero(run < 0).tolist():
        assert len(held[window]) > 1


def test_shared_documents_are_counted(corpus):
    held = documents_of(corpus)
    window = next(w for w in range(len(held) - 1) if held[w] & held[w + 1])
    pair = [np.array([window]), np.array([window + 1])]
    assert count_shared_documents(corpus, LENGTH, pair) == len(held[window] & held[window + 1])
    assert count_shared_documents(corpus, LENGTH, [np.array([window, window + 1]), NONE]) == 0
    halves = np.array_split(np.random.default_rng(0).permutation(len(held)), 2)
    one, other = (set().union(*(held[w] for w in half)) for half in halves)
    assert count_shared_documents(corpus, LENGTH, halves) == len(one & other) > 20


def uses(reserve):
    found = {("", 0): reserve.validation}
    found |= {(name, k): w for name, each in reserve.groups.items() for k, w in enumerate(each)}
    return found


@pytest.mark.parametrize("seed", range(3))
def test_no_two_uses_have_windows_of_one_run(seed):
    reserve = deal_reserve(RUN, 30, NEEDS, np.array([3, 4, 77, 210]), seed)
    found = uses(reserve)
    assert {use: len(windows) for use, windows in found.items()} == {
        ("", 0): 30, ("canaries", 0): 40, ("canaries", 1): 20,
        **{("forgetting", k): 8 for k in range(4)},
    }  # fmt: skip
    runs = [set(RUN[windows].tolist()) for windows in found.values()]
    runs.append(set(RUN[reserve.free].tolist()))
    assert sum(map(len, runs)) == len(set().union(*runs)) > 140
    windows = np.concatenate([*found.values(), np.flatnonzero(reserve.free)])
    assert len(np.unique(windows)) == len(windows)
    assert (
        reserve.windows("canaries").tolist() == np.concatenate(reserve.groups["canaries"]).tolist()
    )
    assert len(reserve.windows("none")) == 0


def test_windows_that_lie_in_two_runs_are_never_used():
    run = np.where(np.arange(500) % 5 == 4, -1, RUN)
    reserve = deal_reserve(run, 30, NEEDS, NONE, 0)
    used = np.concatenate([*uses(reserve).values(), np.flatnonzero(reserve.free)])
    assert (run[used] >= 0).all()


def test_a_group_has_the_text_of_many_runs():
    for windows in uses(deal_reserve(RUN, 30, NEEDS, NONE, 0)).values():
        assert np.unique(RUN[windows], return_counts=True)[1].max() <= -(-len(windows) // 16)
    # A reserve that is too small for that gives fewer runs more windows each.
    few = deal_reserve(np.repeat(np.arange(12), 10), 0, {"a": [32], "b": [32]}, NONE, 0)
    for windows in few.groups["a"] + few.groups["b"]:
        assert np.unique(RUN[windows], return_counts=True)[1].max() <= 8
    one = deal_reserve(np.repeat(np.arange(2), 10), 0, {"a": [10], "b": [10]}, NONE, 0)
    assert sorted(one.groups["a"][0].tolist()) in (list(range(10)), list(range(10, 20)))


def test_the_order_of_names_does_not_matter():
    turned = deal_reserve(RUN, 30, dict(reversed(NEEDS.items())), NONE, 2)
    for use, windows in uses(deal_reserve(RUN, 30, NEEDS, NONE, 2)).items():
        np.testing.assert_array_equal(uses(turned)[use], windows)


def test_another_experiment_moves_only_what_is_in_its_way():
    """In a large reserve most seeds move nothing; in one that is two thirds full, a part."""
    large, unmoved, in_place = np.concatenate([RUN + 150 * k for k in range(40)]), 0, []
    for seed in range(20):
        before = uses(deal_reserve(large, 30, NEEDS, NONE, seed))
        after = uses(deal_reserve(large, 30, {"new": [12], **NEEDS}, NONE, seed))
        had = set(large[np.concatenate([*before.values()])].tolist())
        if not had & set(large[after["new", 0]].tolist()):
            unmoved += 1
            for use, windows in before.items():
                np.testing.assert_array_equal(after[use], windows)
        before = uses(deal_reserve(RUN, 30, NEEDS, NONE, seed))
        after = uses(deal_reserve(RUN, 30, {"new": [12], **NEEDS}, NONE, seed))
        np.testing.assert_array_equal(before["", 0], after["", 0])
        for use, windows in before.items():
            in_place += (windows == after[use]).tolist()
    assert unmoved > 10 and np.mean(in_place) > 0.6


def test_validation_depends_on_nothing_but_the_corpus():
    one = deal_reserve(RUN, 30, NEEDS, NONE, 0)
    other = deal_reserve(RUN, 30, {"x": [7]}, np.array([1, 2]), 5)
    np.testing.assert_array_equal(one.validation, other.validation)
    assert one.validation.tolist() != sorted(one.validation.tolist())
    assert set(one.groups["canaries"][0]) != set(
        deal_reserve(RUN, 30, NEEDS, NONE, 1).groups["canaries"][0]
    )


@pytest.mark.parametrize("seed", range(5))
def test_only_groups_with_dirty_windows_get_others(seed):
    before = uses(deal_reserve(RUN, 30, NEEDS, NONE, seed))
    dirty = np.sort(np.concatenate([before["canaries", 0][:25], before["forgetting", 1][[2]], [5]]))
    reserve = deal_reserve(RUN, 30, NEEDS, dirty, seed)
    after = uses(reserve)
    for use, windows in before.items():
        if use != ("", 0):
            np.testing.assert_array_equal(windows != after[use], np.isin(windows, dirty))
            assert not np.isin(after[use], dirty).any()
    assert not reserve.free[dirty].any()
    runs = [set(RUN[windows].tolist()) for windows in after.values()]
    assert sum(map(len, runs)) == len(set().union(*runs))
    assert not set(RUN[reserve.free].tolist()) & set().union(*runs)


def test_too_much_is_one_line_that_names_the_demands():
    with pytest.raises(ValueError, match=r"5 windows, and validation needs 6.*reserve_fraction"):
        deal_reserve(np.arange(5), 6, {}, NONE, 0)
    assert len(deal_reserve(np.arange(5), 5, {}, NONE, 0).validation) == 5
    demands = {"a": [15, 7], "b": [], "c": [7]}
    with pytest.raises(
        ValueError, match=r"20 windows in 20 runs.*a: 22, c: 7; .*fraction"
    ) as error:
        deal_reserve(np.arange(20), 0, demands, NONE, 0)
    assert "\n" not in str(error.value)
    with pytest.raises(
        ValueError, match=r"too few windows without a removed text for a: .*fraction"
    ):
        deal_reserve(np.arange(9), 0, {"a": [5]}, np.arange(5), 0)


M = 2**64 - 1


def mix(value):
    """The finaliser of SplitMix64 in plain integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & M
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & M
    return value ^ (value >> 31)


def deferred_acceptance(keys, free):
    """Gale and Shapley's (1962) algorithm: requests propose, a window keeps the best one so far.

    All windows rank the requests alike, so its stable matching is what choosing by rank gives.
    """
    rank = {key: mix(key ^ 0xD1B54A32D192ED03) for key in keys}
    proposals, held, waiting = dict.fromkeys(keys, 0), {}, list(keys)
    while waiting:
        key = waiting.pop()
        proposals[key] += 1
        window = mix((key + proposals[key] * 0x9E3779B97F4A7C15) & M) % len(free)
        rival = held.get(window)
        if free[window] and (rival is None or rank[key] < rank[rival]):
            held[window] = key
            key = rival
        if key is not None:
            waiting.append(key)
    at = {key: window for window, key in held.items()}
    return [at[key] for key in keys]


@pytest.mark.parametrize("requests", [70, 700])
@pytest.mark.parametrize("spare", [0, 300])
def test_draws_are_the_stable_matching(requests, spare):
    """Some hundred propose all at once, to a reserve that is full or has room."""
    free = np.zeros(requests + spare + 40, bool)
    free[np.random.default_rng(0).permutation(len(free))[: requests + spare]] = True
    keys = request_keys(1, "x", np.arange(requests))
    assert draw_windows(keys, free).tolist() == deferred_acceptance(keys.tolist(), free)


def test_keys_of_requests_are_hashes_of_seed_name_and_number():
    text = "\x1f".join(["window", "3", "removal/a"]).encode()
    named = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    keys = request_keys(3, "removal/a", np.array([0, 7, 2**40]))
    assert keys.tolist() == [mix(n ^ named) for n in (0, 7, 2**40)]


def test_all_free_windows_can_be_drawn_but_no_more():
    free = np.arange(200) % 3 > 0
    drawn = draw_windows(request_keys(0, "x", np.arange(133)), free)
    assert sorted(drawn.tolist()) == np.flatnonzero(free).tolist()
    with pytest.raises(ValueError, match=r"has 133 windows left .* 134 are needed"):
        draw_windows(request_keys(0, "x", np.arange(134)), free)


def test_draws_do_not_depend_on_the_order_and_hardly_on_others():
    free = np.arange(10_000) >= 100
    mine, others = request_keys(3, "a", np.arange(300)), request_keys(3, "b", np.arange(200))
    alone = draw_windows(mine, free)
    np.testing.assert_array_equal(alone, draw_windows(mine[::-1], free)[::-1])
    both = draw_windows(np.concatenate([others, mine]), free)
    assert len(set(both.tolist())) == 500
    assert 0 < np.count_nonzero(both[200:] != alone) < 12 or np.array_equal(both[200:], alone)


def test_every_window_is_as_likely():
    counts = np.zeros(50)
    for seed in range(2000):
        counts[draw_windows(request_keys(seed, "x", np.arange(5)), np.ones(50, bool))] += 1
    assert abs(counts - 200).max() < 5.5 * np.sqrt(200)


def test_the_last_free_windows_of_a_large_pool_are_dealt_by_rank():
    """As if each drew alone, the best rank first, from what those before it left."""
    free = np.zeros(200_000, bool)
    free[[5, 60_000, 123_456, 199_999]] = True
    keys = request_keys(0, "x", np.arange(4))
    drawn, left = draw_windows(keys, free), free.copy()
    for slot in np.argsort(mix64(keys ^ np.uint64(0xD1B54A32D192ED03))):
        assert drawn[slot] == draw_windows(keys[[slot]], left)[0]
        left[drawn[slot]] = False
    assert not left.any()
