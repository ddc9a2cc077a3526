"""Deal out the reserve by document: validation first, then each experiment's groups of windows.

The reserve is cut into *runs* of whole documents, a few windows or more each. A run serves one use,
and a window that lies in two runs serves none. So two uses never share a document, and no
measurement is of a document of which training saw another part in one run of the study only.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.ngram_search import Patterns, scan
from ttoaa.data.order import mix64

DEALT = "by document"
"""How this version deals; it is stored with a plan, whose validation set depends on it."""
_RUN_WINDOWS = 4  # runs of short documents are cut after about this many windows
_SPREADS = (16, 4, 1)
_NUMBER, _RANK, _PREFERENCE = map(
    np.uint64, (0xD6E8FEB86659FD93, 0xD1B54A32D192ED03, 0x9E3779B97F4A7C15)
)
_FEW, _AHEAD = 256, 1024
_MORE = "prepare in a new --workdir with more text or a larger Prepare.reserve_fraction"

Group = tuple[str, int]
"""(experiment, number of its group)."""


def document_runs(corpus: Corpus, length: int) -> np.ndarray:
    """Return int64[n]: the run of whole documents of each reserve window, -1 if it lies in two.

    In a corpus with the order of another run the documents of a window are unknown: each window is
    then a run by itself, and windows of two uses may be parts of one document.
    """
    total = corpus.num_windows("reserve", length)
    if corpus.in_order or not total:
        return np.arange(total)
    ends = _document_ends(corpus, length) + 1
    # The first document end in each stretch of a few windows cuts.
    cuts = ends[np.diff(ends // (_RUN_WINDOWS * length), prepend=-1) > 0]
    starts = np.arange(total) * length
    first, last = (cuts.searchsorted(starts + offset, "right") for offset in (0, length - 1))
    return np.where(first == last, first, -1)


def count_shared_documents(corpus: Corpus, length: int, uses: Sequence[np.ndarray]) -> int | None:
    """Count the documents that windows (int64[n] each) of two or more of the `uses` hold a part of.

    None if the documents are unknown (see `document_runs`). A document that ends in the remainder
    of a shard, after its last window, counts as one with the first of the next shard.
    """
    if corpus.in_order:
        return None
    ends, held = _document_ends(corpus, length), [np.empty(0, np.int64)]
    for windows in uses:
        first, last = (ends.searchsorted(windows * length + at) for at in (0, length - 1))
        held.append(
            np.unique([d for a, b in zip(first, last, strict=True) for d in range(a, b + 1)])
        )
    _, uses_of_document = np.unique(np.concatenate(held), return_counts=True)
    return int(np.count_nonzero(uses_of_document > 1))


def _document_ends(corpus: Corpus, length: int) -> np.ndarray:
    """Return int64[d]: where windows of the reserve have an EOS, as window * length + offset."""
    return scan(corpus, "reserve", Patterns([np.array([corpus.eos_id])]), length).where


@dataclasses.dataclass(frozen=True)
class Reserve:
    """The use of the reserve's windows. Windows of two uses share no document."""

    run: np.ndarray
    """int64[n]: the run of documents of each window (see `document_runs`)."""
    validation: np.ndarray
    """int64[v]"""
    groups: Mapping[str, Sequence[np.ndarray]]
    """The groups of windows of each experiment, int64[size] each; every group is a use."""
    free: np.ndarray
    """bool[n]: the windows without a removed text in runs that no use has. They replace rows with
    removed texts, and give the sham run its text."""

    def windows(self, name: str) -> np.ndarray:
        """Return int64[n]: the windows of an experiment, group after group."""
        return np.concatenate([np.empty(0, np.int64), *self.groups[name]])

    def describe(self, corpus: Corpus, length: int, replacements: np.ndarray) -> str:
        """Return one line on the uses, of which `replacements` of rows (int64[r]) are another."""
        groups = [group for each in self.groups.values() for group in each]
        uses = [use for use in (self.validation, *groups, replacements) if len(use)]
        shared = count_shared_documents(corpus, length, uses)
        documents = (
            "the documents are unknown, as the corpus has the order of another run"
            if shared is None
            else f"documents shared by two uses: {shared}"
        )
        windows = f"{sum(map(len, uses)):,} of {len(self.run):,} windows"
        return f"reserve: {windows} are taken; uses: {len(uses)}; {documents}"


def deal_reserve(
    run: np.ndarray,
    validation: int,
    needs: Mapping[str, Sequence[int]],
    dirty: np.ndarray,
    seed: int,
) -> Reserve:
    """Deal out the windows of int64[n] `run` to the validation set and to experiments' groups.

    Args:
        needs: the sizes of each experiment's groups.
        dirty: int64[d], the windows with a removed text.

    Each group requests runs (see `draw_windows`). So the order of names does not matter, and an
    experiment changes the windows of another one only where it took its runs. A group of n windows
    takes at most n/16 windows of a run, so that it has text of at least 16 runs; if the reserve is
    too small for that, n/4, and at last n. Validation is dealt out first, without the seed: all
    studies on a corpus validate on the same text. Dirty windows of a group are replaced afterwards
    by others of the same run or of free runs, so that no other group changes.

    Raises ValueError if the reserve is too small.
    """
    kept = _deal({("", 0): validation}, run, "validation")
    if kept is None:
        raise ValueError(
            f"the reserve has {np.count_nonzero(run >= 0)} windows, and validation needs "
            f"{validation}: lower Study.validation_sequences, or {_MORE}"
        )
    held = kept["", 0]
    left = _without_runs(run, held)
    sizes = {(name, k): n for name, each in needs.items() for k, n in enumerate(each)}
    given = _deal(sizes, left, seed)
    if given is None:
        wanted = ", ".join(f"{name}: {sum(each)}" for name, each in needs.items() if sum(each))
        raise ValueError(
            f"the reserve has {np.count_nonzero(left >= 0)} windows in {len(np.unique(left))} runs "
            f"of documents for experiments, but they need more ({wanted}; groups of windows never "
            f"share a document): lower their demands, or {_MORE}"
        )
    left = _without_runs(left, *given.values())
    left = _replace_dirty(given, run, left, dirty, seed)
    groups = {name: [given[name, k] for k in range(len(each))] for name, each in needs.items()}
    free = left >= 0
    free[dirty] = False
    return Reserve(run, held, groups, free)


def _deal(
    needs: Mapping[Group, int], run: np.ndarray, seed: object
) -> dict[Group, np.ndarray] | None:
    """Return each group's windows from the runs of int64[n] `run`; None if they do not suffice."""
    if not needs:
        return {}
    groups = sorted(needs)
    keys = np.array([key_of("reserve", seed, *group) for group in groups], np.uint64)
    sizes = np.array([needs[group] for group in groups], np.int64)
    for spread in _SPREADS:
        found = _deal_runs(keys, sizes, -(-sizes // spread), run)
        if found is not None:
            return {
                group: _in_slots(windows, key)
                for group, windows, key in zip(groups, found, keys, strict=True)
            }
    return None


def _deal_runs(
    keys: np.ndarray, sizes: np.ndarray, most: np.ndarray, run: np.ndarray
) -> list[np.ndarray] | None:
    """Return the windows of g groups with uint64[g] `keys`: int64[g] `sizes`, `most` from a run.

    Every group requests as many runs as it needs if they are of mean size, then more in place of
    what smaller runs did not give, and so on. None if too few runs are left.
    """
    usable = np.flatnonzero(run >= 0)
    free = np.zeros(len(run) + 1, bool)
    free[run[usable]] = True
    none = np.empty(0, np.int64)
    parts = [(none, none)]
    lack, asked = sizes.copy(), np.zeros_like(sizes)
    mean = len(usable) // max(1, int(np.count_nonzero(free))) or 1
    while lack.any():
        count = -(-lack // np.clip(most, 1, mean))
        if count.sum() > np.count_nonzero(free):
            return None
        group = np.repeat(np.arange(len(keys)), count)
        number = _number_in(group) + asked[group]
        drawn = draw_windows(mix64(keys[group] + number.astype(np.uint64) * _NUMBER), free)
        free[drawn] = False
        asked += count
        # The windows of each drawn run, in a keyed order, and the first of them.
        first, last = (run[usable].searchsorted(drawn, side) for side in ("left", "right"))
        request = np.repeat(np.arange(len(drawn)), last - first)
        windows = usable[_number_in(request) + np.repeat(first, last - first)]
        order = np.lexsort((mix64(windows.astype(np.uint64) ^ keys[group[request]]), request))
        windows, of = windows[order], group[request]
        taken = _number_in(request) < most[of]
        windows, of = windows[taken], of[taken]
        taken = _number_in(of) < lack[of]
        parts.append((of[taken], windows[taken]))
        lack -= np.bincount(of[taken], minlength=len(keys))
    of, windows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return np.split(windows[np.argsort(of, kind="stable")], np.cumsum(sizes)[:-1])


def _in_slots(windows: np.ndarray, key: np.uint64) -> np.ndarray:
    """Shuffle int64[n] so that with another window in place of one, most others stay in place."""
    slots = draw_windows(mix64(windows.astype(np.uint64) ^ key), np.ones(len(windows), bool))
    shuffled = np.empty_like(windows)
    shuffled[slots] = windows
    return shuffled


def _number_in(group: np.ndarray) -> np.ndarray:
    """Return int64[n]: how many of the same group stand before each; groups are contiguous."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))


def _by_preference(run: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return the windows with a run, run by run, in the keyed order of runs and within each."""
    windows = np.flatnonzero(run >= 0)
    rank_of_run = mix64(run[windows].astype(np.uint64) ^ key)
    return windows[np.lexsort((mix64(windows.astype(np.uint64) ^ key), rank_of_run))]


def _without_runs(run: np.ndarray, *taken: np.ndarray) -> np.ndarray:
    """Return a copy of int64[n] `run` with -1 for the runs of the windows `taken`."""
    gone = np.unique(run[np.concatenate([np.empty(0, np.int64), *taken])])
    return np.where(np.isin(run, gone), -1, run)


def _replace_dirty(
    given: dict[Group, np.ndarray], run: np.ndarray, left: np.ndarray, dirty: np.ndarray, seed: int
) -> np.ndarray:
    """Replace the dirty windows in `given`, in place; return what remains of the runs `left`."""
    clean = np.ones(len(run), bool)
    clean[dirty] = False
    for group in sorted(given):
        bad = np.flatnonzero(~clean[given[group]])
        if not len(bad):
            continue
        key = key_of("reserve", seed, "clean", *group)
        own = np.where(np.isin(run, run[given[group]]) & clean, run, -1)
        own[given[group]] = -1
        other = _by_preference(np.where(clean, left, -1), key)
        better = np.concatenate([_by_preference(own, key), other])[: len(bad)]
        if len(better) < len(bad):
            raise ValueError(
                f"the reserve has too few windows without a removed text for {group[0]}: remove "
                f"less, or {_MORE}"
            )
        given[group][bad] = better
        left = _without_runs(left, better)
    return left


def draw_windows(keys: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Draw for each request, by its key in uint64[n], a different window that is free, int64[n].

    Each request has a rank and an order of preference of windows, both keyed hashes; by rank, each
    takes its first preference of which bool[windows] `free` is still true. So the order of requests
    does not matter, and a request changes the window of another one only if it, or one that it
    displaced, took it. Choosing in order of rank is the stable matching of Gale and Shapley (1962)
    if all windows rank the requests alike, so requests can also propose in parallel, and a window
    keeps the best one. Raises ValueError if fewer windows are free than requested.
    """
    if np.count_nonzero(free) < len(keys):
        raise ValueError(
            f"the reserve has {np.count_nonzero(free)} windows left without a removed text, "
            f"{len(keys)} are needed to replace removed rows: remove less, or {_MORE}"
        )
    rank, places = mix64(keys ^ _RANK), len(free)
    holder = np.full(places, -1)
    tried = np.zeros(len(keys), np.uint64)
    pending = np.arange(len(keys))
    while len(pending) > _FEW:
        place = _preferences(keys[pending], tried[pending], places)
        tried[pending] += np.uint64(1)
        order = np.lexsort((rank[pending], place))
        pending, place = pending[order], place[order]
        best = np.concatenate([[True], place[1:] != place[:-1]])
        held = holder[place]
        wins = best & free[place] & ((held < 0) | (rank[pending] < rank[held]))
        holder[place[wins]] = pending[wins]
        pending = np.concatenate([pending[~wins], held[wins & (held >= 0)]])
    waiting = pending.tolist()
    while waiting:  # in a full reserve the last ones need many proposals: try several at once
        request = waiting.pop()
        place = _preferences(
            keys[request], tried[request] + np.arange(_AHEAD, dtype=np.uint64), places
        )
        held = holder[place]
        good = np.flatnonzero(free[place] & ((held < 0) | (rank[request] < rank[held])))
        tried[request] += np.uint64(good[0] + 1 if len(good) else _AHEAD)
        if not len(good):
            waiting.append(request)
            continue
        if held[good[0]] >= 0:
            waiting.append(int(held[good[0]]))
        holder[place[good[0]]] = request
    out = np.empty(len(keys), np.int64)
    out[holder[holder >= 0]] = np.flatnonzero(holder >= 0)
    return out


def _preferences(keys: np.ndarray, tried: np.ndarray, places: int) -> np.ndarray:
    """Return the next preferred place of requests that have tried `tried` places, int64[n]."""
    return (mix64(keys + (tried + np.uint64(1)) * _PREFERENCE) % np.uint64(places)).astype(np.int64)


def key_of(*names: object) -> np.uint64:
    """Return the key of the random stream with this name."""
    text = "\x1f".join(map(str, names)).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))


def request_keys(seed: int, name: str, numbers: np.ndarray) -> np.ndarray:
    """Return the keys of requests for `draw_windows`, uint64[n], of int64[n] numbers."""
    return mix64(numbers.astype(np.uint64) ^ key_of("window", seed, name))
