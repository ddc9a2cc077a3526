"""Which items meet which experiments: what is equal in an item and in texts that are inserted.

What is compared are keys: one for each text (is it the same?) or one for each n-gram (how much of
it is the same?). Cost is linear in keys but for sorting, however often a text repeats by design.

For a few items, the text of another experiment that holds most of each: for a person.

Texts that more than one experiment has, word for word or nearly, and holdouts that leak.

The worst is a held-out item that enters training after all: it is the control of its statistic.
That experiments insert the same changes the dose of both. What one experiment inserts several times
is its own affair, and not told.

Texts that one experiment removes from training and another puts back: a plan against itself.

The planner refuses that too; here a plan that lies on disk is looked at, whatever made it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ttoaa.data.ngram_search import Patterns
from ttoaa.data.order import mix64
from ttoaa.planning.checks.findings import Finding
from ttoaa.planning.checks.item_texts import ItemTexts, counted

_KEYS = 1 << 25  # sorted at a time
_PAIRS = 1 << 22  # of (item, experiment) counted at a time
COMMON = 16
"""A key that more experiments have is nobody's mark: it counts for the first of them alone."""


@dataclasses.dataclass(frozen=True)
class Meetings:
    """Pairs of an item and an experiment that inserts something of it, as columns of m rows.

    An item that is inserted meets other experiments only; one that is held out also its own.
    """

    item: np.ndarray
    """int64[m], ascending."""
    other: np.ndarray
    """int64[m]: the experiment that inserts what the item has."""
    common: np.ndarray
    """int64[m]: how many different keys of the item that experiment inserts."""
    example: np.ndarray
    """int64[m]: an item of the other experiment that has one of them."""

    def __len__(self) -> int:
        return len(self.item)

    def where(self, chosen: np.ndarray) -> "Meetings":
        return Meetings(*(getattr(self, f.name)[chosen] for f in dataclasses.fields(self)))


def same_texts(texts: ItemTexts) -> Meetings:
    """Items whose whole text another experiment inserts, or their own although held out."""
    order = np.lexsort((np.arange(len(texts)), texts.signature))
    return _combined(texts, list(_meet(texts, texts.signature[order], order)))


def same_ngrams(texts: ItemTexts, n: int) -> tuple[Meetings, np.ndarray]:
    """(meetings by n-grams, int64[items] different n-grams of each; 0 of a shorter text)."""
    total = np.zeros(len(texts), np.int64)
    width = max(1, (len(texts) - 1).bit_length())
    parts = max(1, int(np.maximum(texts.length - n + 1, 0).sum()) // _KEYS)
    found: list[Meetings] = []
    for part in range(parts):
        keys = np.sort(
            np.concatenate([np.empty(0, np.uint64), *_keys(texts, n, width, part, parts)])
        )
        keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]
        item = (keys & np.uint64((1 << width) - 1)).astype(np.int64)
        total += np.bincount(item, minlength=len(texts))
        found.extend(_meet(texts, keys >> np.uint64(width), item))
    return _combined(texts, found), total


def _keys(texts: ItemTexts, n: int, width: int, part: int, parts: int) -> Iterator[np.ndarray]:
    """The n-grams of one part of all hashes: the hash above, the item in the `width` low bits."""
    for items, hashes, owner in ngrams(texts, n):
        mine = hashes % np.uint64(parts) == part
        high = mix64(hashes[mine]) >> np.uint64(width) << np.uint64(width)
        yield high | (owner[mine] + items.start).astype(np.uint64)


def ngrams(texts: ItemTexts, n: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """(items, hashes uint64[k] of their n-grams in order, int64[k] whose, counted from 0)."""
    for items, tokens, length in texts.blocks():
        hashes = _rolling(mix64(tokens.astype(np.uint64) + np.uint64(1)), n)
        left = np.repeat(length, length) - counted(length)  # tokens up to the end of the text
        whole = left[: len(hashes)] >= n
        yield items, hashes[whole], np.repeat(np.arange(len(length)), length)[: len(hashes)][whole]


def _rolling(values: np.ndarray, n: int) -> np.ndarray:
    """uint64[len - n + 1]: a polynomial of every n values in a row, by doubling."""
    if n == 1 or len(values) < n:
        return values[: max(0, len(values) - n + 1)]
    half = n // 2
    part = _rolling(values, half)
    out = part[: len(part) - half] * np.uint64(pow(0x9E3779B97F4A7C15, half, 1 << 64))
    out += part[half:]
    if n % 2:
        out = out[:-1] * np.uint64(0x9E3779B97F4A7C15) + values[n - 1 :]
    return out


def _meet(texts: ItemTexts, key: np.ndarray, item: np.ndarray) -> Iterator[Meetings]:
    """Meetings in a sorted list of different (key, item)."""
    again = np.flatnonzero(key[1:] == key[:-1])
    among = np.zeros(len(key), bool)
    among[again] = among[again + 1] = True
    key, item = key[among], item[among]
    if not len(key):
        return
    group = np.cumsum(np.diff(key, prepend=~key[:1]) != 0) - 1
    # One inserted item speaks for its experiment in each group: sorted by item is by experiment.
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
        whom = np.repeat(first[group[chosen]], count) + counted(count)
        who = np.repeat(item[chosen], count)
        fit = texts.held_out[who] | (texts.experiment[who] != experiment[whom])
        who, whom = who[fit], whom[fit]
        ones = np.ones(len(who), np.int64)
        yield _combined(texts, [Meetings(who, experiment[whom], ones, item[speak[whom]])])


def _combined(texts: ItemTexts, parts: list[Meetings]) -> Meetings:
    """A row for each (item, other), its counts added."""
    names = [field.name for field in dataclasses.fields(Meetings)]
    empty = np.empty(0, np.int64)
    whole = {n: np.concatenate([empty, *(getattr(p, n) for p in parts)]) for n in names}
    pairs = whole["item"] * len(texts.experiments) + whole["other"]
    different, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    common = np.bincount(which, whole["common"], len(different)).astype(np.int64)
    return Meetings(whole["item"][first], whole["other"][first], common, whole["example"][first])


def nearest(
    texts: ItemTexts, item: np.ndarray, other: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """(int64[m] items, float64[m] containments) for m pairs of an item and an experiment.

    The containment is the share of the item's different n-grams that stand in that one text; the
    text is the inserted one of the experiment that holds most, the first of equals. One pass over
    all texts. Every pair must have an n-gram in common (see `meetings.same_ngrams`).
    """
    asked = _ngrams_of(texts, item, n)
    known, which = np.unique(np.concatenate(asked), return_inverse=True)
    pair = np.repeat(np.arange(len(item)), [*map(len, asked)])
    order = np.argsort(which, kind="stable")
    pair, first = pair[order], np.searchsorted(which[order], np.arange(len(known) + 1))
    best, most = np.full(len(item), -1), np.zeros(len(item), np.int64)
    for items, hashes, owner in ngrams(texts, n):
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hit = np.flatnonzero((known[at] == hashes) & ~texts.held_out[owner + items.start])
        hits = np.unique((owner[hit] + items.start) * len(known) + at[hit])
        whose, ngram = np.divmod(hits, len(known))
        count = first[ngram + 1] - first[ngram]
        whose = np.repeat(whose, count)
        asker = pair[np.repeat(first[ngram], count) + counted(count)]
        fit = texts.experiment[whose] == other[asker]
        met, common = np.unique(asker[fit] * len(texts) + whose[fit], return_counts=True)
        asker, whose = np.divmod(met, len(texts))
        order = np.lexsort((whose, -common, asker))
        top = order[np.flatnonzero(np.diff(asker[order], prepend=-1))]
        better = top[common[top] > most[asker[top]]]
        best[asker[better]], most[asker[better]] = whose[better], common[better]
    return best, most / np.array([len(a) for a in asked])


def _ngrams_of(texts: ItemTexts, item: np.ndarray, n: int) -> list[np.ndarray]:
    """uint64[k] different n-grams of each of these items."""
    return [
        np.unique(np.concatenate([hashes for _, hashes, _ in ngrams(texts.only(np.array([i])), n)]))
        for i in item
    ]


def identical(texts: ItemTexts, holdout: str, examples: int) -> Iterator[Finding]:
    """Word for word; `holdout` is the severity of one that is inserted."""
    met = same_texts(texts)
    held = texts.held_out[met.item]
    for pair in _by_experiments(texts, met.where(held)):
        name, other, count = _names(texts, pair)
        whose = "the experiment itself inserts" if name == other else f"{other} inserts"
        all_ = int((texts.held_out & (texts.experiment == texts.experiment[pair.item[0]])).sum())
        yield Finding(
            severity=holdout,
            check="holdout",
            message=f"{count:,} of {all_:,} held-out items of {name} are texts that {whose}, "
            f"word for word{_told(texts, pair, examples)}",
            experiments=tuple(dict.fromkeys((name, other))),
            items=count,
            examples=_examples(texts, pair, examples),
        )
    both = met.where(~held)
    for pair in _by_experiments(texts, both.where(texts.experiment[both.item] < both.other)):
        name, other, count = _names(texts, pair)
        yield Finding(
            severity="warning",
            check="identical",
            message=f"{count:,} items of {name} are texts that {other} inserts too, word for word"
            f"{_told(texts, pair, examples)}",
            experiments=(name, other),
            items=count,
            examples=_examples(texts, pair, examples),
        )


def similar(
    texts: ItemTexts, n: int, threshold: float, holdout: str, examples: int
) -> Iterator[Finding]:
    """Items of which other experiments insert a share of `threshold` or more of all n-grams.

    Those that are the same word for word are left to `identical`, as are texts under n tokens.
    """
    met, total = same_ngrams(texts, n)
    near = met.where(met.common >= threshold * total[met.item])
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
                # A holdout may be made by the same rule as what is inserted, and share its phrases.
                severity="note" if own else severity,
                check=check,
                message=f"{count:,} {what} of {name} stand to {threshold:.0%} or more of their "
                f"{n}-grams in texts that {'it inserts itself' if own else f'{other} inserts'}: "
                f"{texts.name(int(worst.item[0]))} to {whole[0]:.0%}, of which "
                f"{single[0]:.0%} in {texts.name(int(example[0]))}",
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


def _by_experiments(texts: ItemTexts, met: Meetings) -> Iterator[Meetings]:
    """Those of one experiment that meet one other, pair after pair."""
    pair = texts.experiment[met.item] * len(texts.experiments) + met.other
    order = np.argsort(pair, kind="stable")
    borders = np.flatnonzero(np.diff(pair[order])) + 1
    yield from (met.where(part) for part in np.split(order, borders) if len(part))


def _names(texts: ItemTexts, pair: Meetings) -> tuple[str, str, int]:
    names = texts.experiments
    return names[texts.experiment[pair.item[0]]], names[pair.other[0]], len(pair)


def _examples(texts: ItemTexts, pair: Meetings, examples: int) -> list[dict[str, str]]:
    few = zip(pair.item[:examples].tolist(), pair.example[:examples].tolist(), strict=True)
    return [{"item": texts.name(item), "same_as": texts.name(example)} for item, example in few]


def _told(texts: ItemTexts, pair: Meetings, examples: int) -> str:
    few = [f"{e['item']} = {e['same_as']}" for e in _examples(texts, pair, min(examples, 2))]
    return f": {', '.join(few)}" if few else ""


def removed_and_inserted(texts: ItemTexts, examples: int) -> Iterator[Finding]:
    """An error for each pair of an experiment that removes and one that inserts."""
    removed = np.flatnonzero(texts.removed)
    if not len(removed):
        return
    item, text = _inside(texts, Patterns([texts.text(i) for i in removed.tolist()]))
    text = removed[text]
    inserted = ~texts.held_out[item]
    item, text = item[inserted], text[inserted]
    pair = texts.experiment[text] * len(texts.experiments) + texts.experiment[item]
    for number in np.unique(pair).tolist():
        name, other = (texts.experiments[i] for i in divmod(number, len(texts.experiments)))
        items, first = np.unique(item[pair == number], return_index=True)
        few = [
            {"item": texts.name(i), "removed": texts.name(t)}
            for i, t in zip(items.tolist(), text[pair == number][first].tolist(), strict=True)
        ][:examples]
        yield Finding(
            severity="error",
            check="removed",
            message=f"{name} removes texts that {other} inserts, in {len(items):,} of its items: "
            f"{few[0]['item']} holds {few[0]['removed']}; leave it out of one of them",
            experiments=tuple(dict.fromkeys((name, other))),
            items=len(items),
            examples=few,
        )


def _inside(texts: ItemTexts, patterns: Patterns) -> tuple[np.ndarray, np.ndarray]:
    """(item, pattern) int64[k] each: which texts hold which patterns."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for items, tokens, length in texts.blocks():
        where, pattern = patterns.find(tokens)
        end = np.cumsum(length)
        item = np.searchsorted(end, where, "right")
        whole = where + patterns.lengths[pattern] <= end[item]
        found.append((item[whole] + items.start, pattern[whole]))
    item, pattern = (np.concatenate(column) for column in zip(*found, strict=True))
    return item, pattern
