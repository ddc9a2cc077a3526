"""Texts that one experiment removes from training and another puts back: a plan against itself.

The planner refuses that too; here a plan that lies on disk is looked at, whatever made it.
"""

from collections.abc import Iterator

import numpy as np

from ttoaa.checks.findings import Finding
from ttoaa.checks.texts import Texts
from ttoaa.data.scan_patterns import Patterns


def removed_and_inserted(texts: Texts, examples: int) -> Iterator[Finding]:
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


def _inside(texts: Texts, patterns: Patterns) -> tuple[np.ndarray, np.ndarray]:
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
