"""Measure how much of each item the corpus contains already, by n-grams.

The share of an item is that of its n-grams (13 tokens, as in Brown et al., 2020, appendix C) that
occur in a window that the run trains on; a shorter item is searched for as a whole. Windows of rows
that the plan replaces do not count, the reserve windows that replace them do.
"""

import dataclasses
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.ngram_search import Patterns, scan
from ttoaa.data.order import Order
from ttoaa.planning.checks.findings import Finding
from ttoaa.planning.checks.item_texts import ItemTexts, ranges
from ttoaa.planning.items import RESERVE
from ttoaa.planning.plan import Plan

_SHORTEST = 5  # tokens: shorter texts occur by chance
_BLOCK = 1 << 20  # tokens of reserve windows read at a time


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The n-grams of n texts in the corpus."""

    texts: ItemTexts
    searched: np.ndarray
    """int64[n]: n-grams searched for; 0 where the text is too short."""
    found: np.ndarray
    """int64[n]: n-grams found."""
    times: np.ndarray
    """int64[n]: occurrences of all its n-grams in windows trained on."""

    @property
    def share(self) -> np.ndarray:
        """float64[n]: found n-grams over searched ones."""
        return self.found / np.maximum(self.searched, 1)


def overlap(
    corpus: Corpus, plan: Plan, texts: ItemTexts, n: int, most: int, progress: bool = False
) -> Overlap:
    """Search the corpus for at most about `most` n-grams, evenly spaced in every text."""
    place, length, owner = _choose_ngrams(texts, n, most)
    searched = np.bincount(owner, minlength=len(texts))
    found, times = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    for size in (n, None):  # short ones in a scan of their own, which they slow down
        group = np.flatnonzero(length == n if size else length < n)
        if not len(group):
            continue
        rows = [
            texts.at(np.arange(p, p + k)) for p, k in zip(place[group], length[group], strict=True)
        ]
        different, which = _unique_rows(rows)
        count = _count_occurrences(corpus, plan, Patterns(different), progress)[which]
        found += np.bincount(owner[group], count > 0, len(texts)).astype(np.int64)
        times += np.bincount(owner[group], count, len(texts)).astype(np.int64)
    return Overlap(texts, searched, found, times)


def _choose_ngrams(
    texts: ItemTexts, n: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (first token, length, text) of every n-gram to search for, int64[k] each."""
    fits = np.maximum(texts.length - n + 1, 1)
    stride = max(1, -(-int(fits.sum()) // most))
    count = np.where(texts.length >= _SHORTEST, -(-fits // stride), 0)
    owner = np.repeat(np.arange(len(texts)), count)
    return (
        texts.start[owner] + ranges(count) * stride,
        np.minimum(texts.length, n)[owner],
        owner,
    )


def _unique_rows(rows: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return (the different rows, the index of each row among them)."""
    first: dict[bytes, int] = {}
    which = np.array([first.setdefault(row.tobytes(), len(first)) for row in rows])
    firsts = np.unique(which, return_index=True)[1]
    return [rows[i] for i in firsts], which


def _count_occurrences(
    corpus: Corpus, plan: Plan, patterns: Patterns, progress: bool
) -> np.ndarray:
    """Count the occurrences of patterns within windows that the run trains on, int64[patterns]."""
    length = plan.geometry.length
    occurrences = scan(corpus, "train", patterns, length, progress=progress)
    trained = _trained_windows(corpus, plan)[occurrences.where // length]
    count = np.bincount(occurrences.pattern[trained], minlength=len(patterns))
    inserted = np.unique(plan.columns["source"][plan.columns["kind"] == RESERVE])
    step = max(1, _BLOCK // length)
    for first in range(0, len(inserted), step):
        text = corpus.windows("reserve", inserted[first : first + step], length).ravel()
        where, pattern = patterns.find(text)
        whole = where % length + patterns.lengths[pattern] <= length
        count += np.bincount(pattern[whole], minlength=len(patterns))
    return count


def _trained_windows(corpus: Corpus, plan: Plan) -> np.ndarray:
    """Return which training windows the run uses in a row that is not replaced, bool[n]."""
    order, sequences = Order(**plan.contents["order"]), plan.geometry.sequences
    reached = np.zeros(order.num_windows, bool)
    replaced = plan.columns["position"][plan.columns["kind"] == RESERVE]
    for first in range(0, sequences, _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, sequences))
        low, high = np.searchsorted(replaced, [rows[0], rows[-1] + 1])
        rows = np.delete(rows, np.unique(replaced[low:high]) - first)
        reached[order.windows(rows)] = True
    return reached


def by_condition(found: Overlap, dirty: float, worst: int) -> list[dict[str, Any]]:
    """Summarise each experiment and condition in a row, with its `worst` items."""
    texts = found.texts
    conditions = np.asarray(texts.conditions.to_pylist(), object)
    names, code = np.unique(conditions.astype(str), return_inverse=True)
    group = texts.experiment * max(1, len(names)) + code
    rows = []
    for number in np.unique(group):
        items = np.flatnonzero(group == number)
        long_enough = items[found.searched[items] > 0]
        share = found.share[long_enough]
        order = long_enough[np.argsort(-share, kind="stable")[:worst]]
        rows.append(
            {
                "experiment": texts.experiments[number // len(names)],
                "condition": str(names[number % len(names)]),
                "items": len(items),
                "too_short": len(items) - len(long_enough),
                "held_out": int(texts.held_out[items].sum()),
                "ngrams": int(found.searched[long_enough].sum()),
                "mean_share": float(share.mean()) if len(long_enough) else None,
                "items_with_any": int((share > 0).sum()),
                "items_covered": int((share >= dirty).sum()),
                "worst": [
                    {
                        "item": texts.name(int(i)),
                        "share": round(float(found.share[i]), 4),
                        "occurrences": int(found.times[i]),
                    }
                    for i in order
                    if found.found[i]
                ],
            }
        )
    return rows


def findings(rows: list[dict[str, Any]], n: int, dirty: float) -> list[Finding]:
    """Warn of each condition with items whose share in the corpus is `dirty` or more."""
    return [
        Finding(
            severity="warning",
            check="overlap",
            message=f"{row['items_covered']:,} of {row['items']:,} items of "
            f"{row['experiment']}/{row['condition']} have {dirty:.0%} or more of their "
            f"{n}-grams in the corpus: {row['worst'][0]['item']} has "
            f"{row['worst'][0]['share']:.0%}",
            experiments=(row["experiment"],),
            items=row["items_covered"],
            examples=row["worst"],
        )
        for row in rows
        if row["items_covered"]
    ]


def table(rows: list[dict[str, Any]], n: int) -> str:
    """Format the rows as a table."""
    names = [f"{row['experiment']}/{row['condition']}" for row in rows]
    width = max([len(name) for name in names], default=4)
    lines = [
        f"{'condition':{width}}  {'items':>9}  {'with any':>9}  {'covered':>9}  "
        f"{f'mean share of {n}-grams':>24}  worst"
    ]
    for name, row in zip(names, rows, strict=True):
        worst = ", ".join(f"{w['item']} {w['share']:.0%}" for w in row["worst"][:3])
        mean = "-" if row["mean_share"] is None else f"{row['mean_share']:.2%}"
        lines.append(
            f"{name:{width}}  {row['items']:>9,}  {row['items_with_any']:>9,}  "
            f"{row['items_covered']:>9,}  {mean:>24}  {worst}".rstrip()
        )
    return "\n".join(lines)
