"""Texts that one experiment removes from training and another puts back: a plan against itself."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ttoaa.checks.findings import Finding
from ttoaa.checks.texts import Texts
from ttoaa.data.scan_patterns import Patterns


def removed_and_inserted(
    texts: Texts, removals: Mapping[str, Sequence[np.ndarray]], examples: int
) -> Iterator[Finding]:
    """An error for each pair; `removals` are the token sequences that an experiment takes out."""
    for name, sequences in removals.items():
        item, sequence = _inside(texts, Patterns(sequences)) if sequences else (_NONE, _NONE)
        inserted = ~texts.held_out[item]
        item, sequence = item[inserted], sequence[inserted]
        for other in np.unique(texts.experiment[item]).tolist():
            mine = texts.experiment[item] == other
            items, first = np.unique(item[mine], return_index=True)
            few = [
                {"item": texts.name(i), "removed": int(s)}
                for i, s in zip(items.tolist(), sequence[mine][first].tolist(), strict=True)
            ][:examples]
            yield Finding(
                severity="error",
                check="removed",
                message=f"{name} removes texts that {texts.experiments[other]} inserts, in "
                f"{len(items):,} of its items: {few[0]['item']} holds the removed sequence number "
                f"{few[0]['removed']}; leave it out of one of them",
                experiments=tuple(dict.fromkeys((name, texts.experiments[other]))),
                items=len(items),
                examples=few,
            )


_NONE = np.empty(0, np.int64)


def _inside(texts: Texts, patterns: Patterns) -> tuple[np.ndarray, np.ndarray]:
    """(item, pattern) int64[k] each: which texts hold which patterns."""
    found = [(_NONE, _NONE)]
    for items, tokens, length in texts.blocks():
        where, pattern = patterns.find(tokens)
        end = np.cumsum(length)
        item = np.searchsorted(end, where, "right")
        whole = where + patterns.lengths[pattern] <= end[item]
        found.append((item[whole] + items.start, pattern[whole]))
    item, pattern = (np.concatenate(column) for column in zip(*found, strict=True))
    return item, pattern
