"""Texts that must not be in a run: rows that hold one become reserve windows (contract C3).

Every training window that the run reaches is scanned. A row that holds a removed text is replaced
whole, in every epoch that trains on it, by a window of its own that holds none (paper, E.5).
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order, mix64
from ttoaa.data.scan import scan
from ttoaa.data.scan_patterns import Patterns
from ttoaa.planning.clean import draw, key_of, slot_keys
from ttoaa.planning.edits import Edits
from ttoaa.planning.items import Items
from ttoaa.planning.occurring import scan_run
from ttoaa.planning.placement import Explicit
from ttoaa.planning.spreads import whole_numbers

_BLOCK = 50_000  # items at a time
_OWN = {"removed", "occurrences"}  # fields


@dataclasses.dataclass(frozen=True)
class Removal:
    """A text that must not occur in the run; it becomes an item of the experiment, held out."""

    id: str
    condition: str
    tokens: np.ndarray
    """int[n]"""
    text: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """As those of an Item; `removed` and `occurrences` are added."""


class Removals:
    """The texts that the experiments of a study remove, by name, for rows of `length` tokens."""

    def __init__(self, asked: Mapping[str, Iterable[Removal]], length: int) -> None:
        self.texts = [(name, each) for name in sorted(asked) for each in asked[name]]
        """(experiment, text), as the scan counts them."""
        for name, each in self.texts:
            where = f"{name}: removed text {each.id!r}"
            whole_numbers(where, "tokens", each.tokens)
            if own := sorted(_OWN & each.fields.keys()):
                raise ValueError(f"{where} has a field {own[0]!r}, which is given to it: rename it")
            if not 0 < len(each.tokens) <= length:
                raise ValueError(
                    f"{where} has {len(each.tokens)} tokens, a row holds 1 to {length}: shorten it"
                )
        self.names = list(dict.fromkeys(name for name, _ in self.texts))

    def __bool__(self) -> bool:
        return bool(self.texts)

    @functools.cached_property
    def patterns(self) -> Patterns:
        return Patterns([np.asarray(each.tokens) for _, each in self.texts])

    @functools.cached_property
    def owner(self) -> np.ndarray:
        """int64[texts]: each one's experiment, as a number in `names`."""
        return np.array([self.names.index(name) for name, _ in self.texts], np.int64)

    def title(self, text: int) -> str:
        name, each = self.texts[text]
        return f"{name}/{each.id}"


def dirty_windows(removals: Removals, corpus: Corpus, length: int) -> np.ndarray:
    """int64[d]: the reserve windows that hold a removed text."""
    if not removals or not corpus.num_windows("reserve", length):
        return np.empty(0, np.int64)
    return np.unique(scan(corpus, "reserve", removals.patterns, length).where // length)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a run that hold a removed text, each once, by position."""

    position: np.ndarray
    """int64[n] ascending."""
    text: np.ndarray
    """int64[n]: the one for which it is replaced, as a number in `Removals.texts`."""
    held: Sequence[np.ndarray]
    """n arrays: all removed texts that it holds, of whatever experiment."""
    occurrences: np.ndarray
    """int64[texts]: how often each would occur in the rows of the run, without any edits."""


def rows_with(
    removals: Removals,
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    seed: int,
    covered: np.ndarray,
) -> Rows:
    """Scans the training windows; rows that others overwrite as a whole, int64[c], need nothing.

    A keyed hash of the row says whose it is, of the experiments that want it replaced.
    """
    length, total = geometry.length, geometry.sequences
    found = scan_run(corpus, order, geometry, removals.patterns)
    windows, first, count = np.unique(found.where // length, return_index=True, return_counts=True)
    position, which = order.positions(windows, total)
    times = np.repeat(np.bincount(which, minlength=len(windows)), count)
    occurrences = np.bincount(found.pattern, times, len(removals.texts)).astype(np.int64)
    left = ~np.isin(position, covered)
    position, which = position[left], which[left]
    # One entry for each pair of a row and a text in it; of a row's the best rank is the first.
    row = np.repeat(np.arange(len(position)), count[which])
    inner = np.arange(len(row)) - np.repeat(np.cumsum(count[which]) - count[which], count[which])
    text = found.pattern[np.repeat(first[which], count[which]) + inner]
    keys = np.array([key_of("removal", seed, name) for name in removals.names], np.uint64)
    rank = mix64(keys[removals.owner[text]] ^ position[row].astype(np.uint64))
    best = np.lexsort((text, rank, row))
    held = np.split(text, np.cumsum(count[which])[:-1]) if len(position) else []
    return Rows(
        position=position,
        text=text[best[np.flatnonzero(np.diff(row[best], prepend=-1))]],
        held=[np.unique(each) for each in held],
        occurrences=occurrences,
    )


def replacements(
    removals: Removals, rows: Rows, pool: np.ndarray, taken: np.ndarray, seed: int
) -> np.ndarray:
    """int64[n]: a reserve window of `pool` for each row, none of the `taken`."""
    keys = np.empty(len(rows.position), np.uint64)
    for number, name in enumerate(removals.names):
        own = removals.owner[rows.text] == number
        keys[own] = slot_keys(seed, f"removal/{name}", rows.position[own])
    return draw(keys, pool, taken)


def items_of(name: str, removals: Removals, rows: Rows, windows: np.ndarray) -> Iterator[Items]:
    """The items of one experiment's removals: its texts, held out, and the rows that it replaces.

    `windows` int64[n] are those of all rows.
    """
    number = removals.names.index(name)
    own = np.flatnonzero(removals.owner == number)
    for block in _blocks(own):
        texts = [removals.texts[i][1] for i in block.tolist()]
        fields = [{"removed": True, "occurrences": n} for n in rows.occurrences[block].tolist()]
        for each, field in zip(texts, fields, strict=True):
            field.update(each.fields)
        columns = list(dict.fromkeys(key for field in fields for key in field))
        yield Items(
            ids=[each.id for each in texts],
            **_conditions([each.condition for each in texts]),
            repetitions=0,
            tokens=np.concatenate([np.asarray(each.tokens, np.int64) for each in texts]),
            lengths=np.array([len(each.tokens) for each in texts]),
            texts=[each.text for each in texts],
            fields={column: [field.get(column) for field in fields] for column in columns},
        )
    for block in _blocks(np.flatnonzero(removals.owner[rows.text] == number)):
        yield Items(
            ids=[f"row-{position}" for position in rows.position[block].tolist()],
            **_conditions([removals.texts[i][1].condition for i in rows.text[block].tolist()]),
            repetitions=1,
            windows=windows[block],
            placement=Explicit(rows.position[block]),
            fields={"removes": [[removals.title(i) for i in rows.held[row]] for row in block]},
        )


def removed_texts(plan: Edits) -> dict[str, list[np.ndarray]]:
    """int32[n] each: what the experiments of a plan remove, for those that remove anything."""
    found = {}
    for name in plan.contents["experiments"]:
        items = plan.items(name)
        if "removed" in items:
            chosen = items.loc[items["removed"].eq(True), "tokens"]
            found[name] = [np.asarray(tokens, np.int32) for tokens in chosen]
    return {name: texts for name, texts in found.items() if texts}


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), _BLOCK):
        yield rows[first : first + _BLOCK]


def _conditions(names: Sequence[str]) -> dict[str, Any]:
    """`condition` and `codes` of an Items."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return {"condition": list(numbers), "codes": np.array([numbers[name] for name in names])}
