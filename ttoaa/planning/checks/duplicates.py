"""Find texts that several experiments have, and held-out items that are inserted.

A held-out item that enters training spoils the control of its statistic. A text that two
experiments insert changes the number of repetitions in both. Repetitions within one experiment are
by design and not reported.

Texts are compared by keys: one for each text (identical?) or one for each n-gram (what share is
shared?). Cost is linear in keys except for sorting, however often a text is repeated. For the worst
items, the one text of another experiment that holds most of each is searched for.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ttoaa.data.order import mix64
from ttoaa.planning.checks.findings import Finding
from ttoaa.planning.checks.item_texts import ItemTexts, ranges

_KEYS = 1 << 25  # sorted at a time
_PAIRS = 1 << 22  # pairs of (item, experiment) ranges at a time
COMMON = 16
"""A key in more experiments than this is too common: it counts for the first ones only."""


@dataclasses.dataclass(frozen=True)
class Matches:
    """Pairs of an item and an experiment that inserts parts of it, as columns of m rows.

    Inserted items are compared with other experiments, held-out items also with their own.
    """

    item: np.ndarray
    """int64[m], ascending."""
    other: np.ndarray
    """int64[m]: the experiment that inserts parts of the item."""
    common: np.ndarray
    """int64[m]: the number of different keys of the item that the experiment inserts."""
    example: np.ndarray
    """int64[m]: an item of that experiment with one of these keys."""

    def __len__(self) -> int:
        return len(self.item)

    def where(self, chosen: np.ndarray) -> "Matches":
        return Matches(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


def same_texts(texts: ItemTexts) -> Matches:
    """Match items whose whole text another experiment inserts, or their own if held out."""
    order = np.lexsort((np.arange(len(texts)), texts.signature))
    return _combine(texts, list(_match(texts, texts.signature[order], order)))


def same_ngrams(texts: ItemTexts, n: int) -> tuple[Matches, np.ndarray]:
    """Return (matches by n-grams, number of different n-grams of each item, int64[items])."""
    total = np.zeros(len(texts), np.int64)
    width = max(1, (len(texts) - 1).bit_length())
    parts = max(1, int(np.maximum(texts.length - n + 1, 0).sum()) // _KEYS)
    found: list[Matches] = []
    for part in range(parts):
        keys = np.sort(
            np.concatenate([np.empty(0, np.uint64), *_hash_keys(texts, n, width, part, parts)])
        )
        keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]
        item = (keys & np.uint64((1 << width) - 1)).astype(np.int64)
        total += np.bincount(item, minlength=len(texts))
        found.extend(_match(texts, keys >> np.uint64(width), item))
    return _combine(texts, found), total


def _hash_keys(texts: ItemTexts, n: int, width: int, part: int, parts: int) -> Iterator[np.ndarray]:
    """Yield keys of one part of all hashes: an n-gram's hash, and its item in `width` low bits."""
    for items, hashes, owner in ngrams(texts, n):
        chosen = hashes % np.uint64(parts) == part
        high = mix64(hashes[chosen]) >> np.uint64(width) << np.uint64(width)
        yield high | (owner[chosen] + items.start).astype(np.uint64)


def ngrams(texts: ItemTexts, n: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield (items, uint64[k] hashes of their n-grams, int64[k] the item of each, from 0)."""
    for items, tokens, length in texts.blocks():
        hashes = _hash_ngrams(mix64(tokens.astype(np.uint64) + np.uint64(1)), n)
        left = np.repeat(length, length) - ranges(length)  # tokens to the end of the text
        whole = left[: len(hashes)] >= n
        yield items, hashes[whole], np.repeat(np.arange(len(length)), length)[: len(hashes)][whole]


def _hash_ngrams(values: np.ndarray, n: int) -> np.ndarray:
    """Hash every n consecutive values by a polynomial, by doubling: uint64[len - n + 1]."""
    if n == 1 or len(values) < n:
        return values[: max(0, len(values) - n + 1)]
    half = n // 2
    part = _hash_ngrams(values, half)
    out = part[: len(part) - half] * np.uint64(pow(0x9E3779B97F4A7C15, half, 1 << 64))
    out += part[half:]
    if n % 2:
        out = out[:-1] * np.uint64(0x9E3779B97F4A7C15) + values[n - 1 :]
    return out


def _match(texts: ItemTexts, key: np.ndarray, item: np.ndarray) -> Iterator[Matches]:
    """Yield the matches in a sorted list of different (key, item)."""
    again = np.flatnonzero(key[1:] == key[:-1])
    among = np.zeros(len(key), bool)
    among[again] = among[again + 1] = True
    key, item = key[among], item[among]
    if not len(key):
        return
    group = np.cumsum(np.diff(key, prepend=~key[:1]) != 0) - 1
    # One inserted item represents its experiment in each group; sorting by item is by experiment.
    speak = np.flatnonzero(~texts.held_out[item])
    experiment = texts.experiment[item[speak]]
    changed = np.diff(group[speak] * len(texts.experiments) + experiment, prepend=-1) != 0
    speak, experiment = speak[changed], experiment[changed]
    speakers = np.bincount(group[speak], minlength=group[-1] + 1)
    first = np.cumsum(speakers) - speakers
    speakers = np.minimum(speakers, COMMON)
    asking = np.flatnonzero(texts.held_out[item] | (speakers[group] > 1))
    ends = np.cumsum(speakers[group[asking]]) // _PAIRS
    for chosen in np.split(asking, np.flatnonzero(np.diff(ends)) + 1):
        count = speakers[group[chosen]]
        whom = np.repeat(first[group[chosen]], count) + ranges(count)
        who = np.repeat(item[chosen], count)
        fit = texts.held_out[who] | (texts.experiment[who] != experiment[whom])
        who, whom = who[fit], whom[fit]
        ones = np.ones(len(who), np.int64)
        yield _combine(texts, [Matches(who, experiment[whom], ones, item[speak[whom]])])


def _combine(texts: ItemTexts, parts: list[Matches]) -> Matches:
    """Merge matches into one row for each (item, other), adding their counts."""
    names = [field.name for field in dataclasses.fields(Matches)]
    empty = np.empty(0, np.int64)
    whole = {n: np.concatenate([empty, *(getattr(p, n) for p in parts)]) for n in names}
    pairs = whole["item"] * len(texts.experiments) + whole["other"]
    different, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    common = np.bincount(which, whole["common"], len(different)).astype(np.int64)
    return Matches(whole["item"][first], whole["other"][first], common, whole["example"][first])


def nearest(
    texts: ItemTexts, item: np.ndarray, other: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the inserted text of an experiment that holds most of an item, for m pairs.

    Returns (int64[m] texts, float64[m] shares): the share of the item's different n-grams that are
    in that one text. One pass over all texts. Each pair must share an n-gram (see `same_ngrams`).
    """
    wanted = _ngrams_of(texts, item, n)
    known, which = np.unique(np.concatenate(wanted), return_inverse=True)
    pair = np.repeat(np.arange(len(item)), [*map(len, wanted)])
    order = np.argsort(which, kind="stable")
    pair, first = pair[order], np.searchsorted(which[order], np.arange(len(known) + 1))
    best, most = np.full(len(item), -1), np.zeros(len(item), np.int64)
    for items, hashes, owner in ngrams(texts, n):
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hit = np.flatnonzero((known[at] == hashes) & ~texts.held_out[owner + items.start])
        hits = np.unique((owner[hit] + items.start) * len(known) + at[hit])
        text, ngram = np.divmod(hits, len(known))
        count = first[ngram + 1] - first[ngram]
        text = np.repeat(text, count)
        asker = pair[np.repeat(first[ngram], count) + ranges(count)]
        fit = texts.experiment[text] == other[asker]
        pairs, common = np.unique(asker[fit] * len(texts) + text[fit], return_counts=True)
        asker, text = np.divmod(pairs, len(texts))
        order = np.lexsort((text, -common, asker))
        top = order[np.flatnonzero(np.diff(asker[order], prepend=-1))]
        better = top[common[top] > most[asker[top]]]
        best[asker[better]], most[asker[better]] = text[better], common[better]
    return best, most / np.array([len(each) for each in wanted])


def _ngrams_of(texts: ItemTexts, item: np.ndarray, n: int) -> list[np.ndarray]:
    """Return the different n-grams of each of these items, uint64[k]."""
    return [
        np.unique(np.concatenate([hashes for _, hashes, _ in ngrams(texts.only(np.array([i])), n)]))
        for i in item
    ]


def identical(texts: ItemTexts, holdout: str, examples: int) -> Iterator[Finding]:
    """Report identical texts; `holdout` is the severity of a held-out item that is inserted."""
    matches = same_texts(texts)
    held = texts.held_out[matches.item]
    for pair in _by_experiments(texts, matches.where(held)):
        name, other, count = _names(texts, pair)
        source = "the experiment itself inserts" if name == other else f"{other} inserts"
        total = int((texts.held_out & (texts.experiment == texts.experiment[pair.item[0]])).sum())
        yield Finding(
            severity=holdout,
            check="holdout",
            message=f"{count:,} of {total:,} held-out items of {name} are identical to texts "
            f"that {source}{_list_examples(texts, pair, examples)}",
            experiments=tuple(dict.fromkeys((name, other))),
            items=count,
            examples=_examples(texts, pair, examples),
        )
    both = matches.where(~held)
    for pair in _by_experiments(texts, both.where(texts.experiment[both.item] < both.other)):
        name, other, count = _names(texts, pair)
        yield Finding(
            severity="warning",
            check="identical",
            message=f"{count:,} items of {name} are identical to texts that {other} inserts"
            f"{_list_examples(texts, pair, examples)}",
            experiments=(name, other),
            items=count,
            examples=_examples(texts, pair, examples),
        )


def similar(
    texts: ItemTexts, n: int, threshold: float, holdout: str, examples: int
) -> Iterator[Finding]:
    """Report near-duplicates: other experiments insert at least `threshold` of an item's n-grams.

    Identical texts, and texts under n tokens, are left to `identical`.
    """
    matches, total = same_ngrams(texts, n)
    near = matches.where(matches.common >= threshold * total[matches.item])
    same = same_texts(texts)
    wide = len(texts.experiments)
    known = np.isin(near.item * wide + near.other, same.item * wide + same.other)
    near = near.where(~known)
    held = texts.held_out[near.item]
    for part, check, severity in ((held, "holdout", holdout), (~held, "similar", "warning")):
        for pair in _by_experiments(texts, near.where(part)):
            name, other, count = _names(texts, pair)
            own = name == other
            share = pair.common / total[pair.item]
            worst = pair.where(np.argsort(-share, kind="stable")[:examples])
            whole = worst.common / total[worst.item]
            example, single = nearest(texts, worst.item, worst.other, n)
            what = "held-out items" if check == "holdout" else "items"
            yield Finding(
                # The items of an experiment may share phrases by the rule that makes them.
                severity="note" if own else severity,
                check=check,
                message=f"{count:,} {what} of {name} share {threshold:.0%} or more of their "
                f"{n}-grams with texts that {'it inserts itself' if own else f'{other} inserts'}: "
                f"{texts.name(int(worst.item[0]))} shares {whole[0]:.0%}, and "
                f"{single[0]:.0%} with {texts.name(int(example[0]))} alone",
                experiments=tuple(dict.fromkeys((name, other))),
                items=count,
                examples=[
                    {
                        "item": texts.name(i),
                        "share": round(float(w), 4),
                        "nearest": texts.name(e),
                        "share_in_nearest": round(float(s), 4),
                    }
                    for i, w, e, s in zip(
                        worst.item.tolist(), whole, example.tolist(), single, strict=True
                    )
                ],
            )


def _by_experiments(texts: ItemTexts, matches: Matches) -> Iterator[Matches]:
    """Split matches by their pair of experiments."""
    pair = texts.experiment[matches.item] * len(texts.experiments) + matches.other
    order = np.argsort(pair, kind="stable")
    borders = np.flatnonzero(np.diff(pair[order])) + 1
    yield from (matches.where(part) for part in np.split(order, borders) if len(part))


def _names(texts: ItemTexts, pair: Matches) -> tuple[str, str, int]:
    names = texts.experiments
    return names[texts.experiment[pair.item[0]]], names[pair.other[0]], len(pair)


def _examples(texts: ItemTexts, pair: Matches, examples: int) -> list[dict[str, str]]:
    few = zip(pair.item[:examples].tolist(), pair.example[:examples].tolist(), strict=True)
    return [{"item": texts.name(item), "same_as": texts.name(example)} for item, example in few]


def _list_examples(texts: ItemTexts, pair: Matches, examples: int) -> str:
    few = [f"{e['item']} = {e['same_as']}" for e in _examples(texts, pair, min(examples, 2))]
    return f": {', '.join(few)}" if few else ""
