"""Remove texts from a run, and find where token sequences occur (contract C3; paper, E.5).

Every training window that the run reaches is scanned. Each row with a removed text, in every epoch,
is replaced as a whole by a reserve window without one, except for rows that a fixed placement
overwrites anyway. Items that would insert a removed text are refused before anything is placed.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.ngram_search import Occurrences, Patterns, scan
from ttoaa.data.order import Order, mix64
from ttoaa.planning.controller_log import SlotTexts
from ttoaa.planning.items import RESERVE, TOKENS, Item, Items, blocks
from ttoaa.planning.placement import (
    AtOccurrences,
    Explicit,
    RandomPlacement,
    fixed_addresses,
    whole_numbers,
)
from ttoaa.planning.reserve import draw_windows, key_of, request_keys

WHERE = ("after", "over", "row")


def scan_run(corpus: Corpus, order: Order, geometry: Geometry, patterns: Patterns) -> Occurrences:
    """Find occurrences in all training windows; with an order file, in those that the run uses."""
    stop = order.num_windows
    if order.first_in_order:
        stop = min(stop, geometry.sequences)
    return scan(corpus, "train", patterns, geometry.length, stop * geometry.length)


def at_occurrences(
    sequences: Sequence[np.ndarray],
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    where: str = "after",
) -> AtOccurrences:
    """Return a placement at the occurrences of token sequences, int[n] each, in all epochs.

    An item goes right 'after' the occurrence, 'over' it (from its first token on), or to the start
    of its 'row'.
    """
    if where not in WHERE:
        raise ValueError(f"`where` must be one of {WHERE}, not {where!r}")
    length, patterns = geometry.length, Patterns(sequences)
    found = scan_run(corpus, order, geometry, patterns)
    windows, offsets = np.divmod(found.where, length)
    if where == "after":
        offsets = offsets + patterns.lengths[found.pattern]
    elif where == "row":
        offsets = np.zeros_like(offsets)
    windows, offsets = np.unique(np.stack([windows, offsets]), axis=1)
    inside = offsets < length
    positions, which = order.positions(windows[inside], geometry.sequences)
    return AtOccurrences(positions, offsets[inside][which])


def overwritten_rows(
    name: str, items: Iterable[Item | Items], geometry: Geometry, vocab: int
) -> np.ndarray:
    """Return the rows that items of an experiment overwrite entirely by fixed placements, int64[n].

    Raises ValueError, naming experiment and item, for an item that cannot be trained on.
    """
    found = [np.empty(0, np.int64)]
    for block in blocks(name, items, geometry.length, vocab):
        whole = (block.length == geometry.length) & np.isin(block.kind, (TOKENS, RESERVE))
        for first, last, placement in block.runs:
            run = slice(first, last)
            where = f"{name}: item {block.ids[first].as_py()!r}"
            repetitions, lengths = block.repetitions[run], block.length[run]
            if not isinstance(placement, RandomPlacement):
                address = fixed_addresses(where, placement, repetitions, lengths, geometry)
                found.append(address[np.repeat(whole[run], repetitions)])
    return np.concatenate(found) // geometry.length


_BLOCK = 50_000  # items at a time
_ADDED = {"removed", "occurrences"}  # fields


@dataclasses.dataclass(frozen=True)
class Removal:
    """A text that must not occur in the run; it becomes a held-out item of the experiment."""

    id: str
    condition: str
    tokens: np.ndarray
    """int[n]"""
    text: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """As `Item.fields`; `removed` and `occurrences` are added."""


class Removals:
    """All texts that the experiments of a study remove, for rows of `length` tokens."""

    def __init__(self, by_experiment: Mapping[str, Iterable[Removal]], length: int) -> None:
        names = sorted(by_experiment)
        self.texts = [(name, each) for name in names for each in by_experiment[name]]
        """(experiment, text), in the order in which the scan numbers them."""
        for name, each in self.texts:
            where = f"{name}: removed text {each.id!r}"
            whole_numbers(where, "tokens", each.tokens)
            if reserved := sorted(_ADDED & each.fields.keys()):
                raise ValueError(
                    f"{where} has a field {reserved[0]!r}, which the planner sets: rename it"
                )
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
        """int64[texts]: the experiment of each text, as an index in `names`."""
        return np.array([self.names.index(name) for name, _ in self.texts], np.int64)

    def title(self, text: int) -> str:
        """Return 'experiment/id' of a text."""
        name, each = self.texts[text]
        return f"{name}/{each.id}"


def dirty_windows(removals: Removals, corpus: Corpus, length: int) -> np.ndarray:
    """Return the reserve windows that contain a removed text, int64[d]."""
    if not removals or not corpus.num_windows("reserve", length):
        return np.empty(0, np.int64)
    return np.unique(scan(corpus, "reserve", removals.patterns, length).where // length)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a run that contain a removed text and are to be replaced, by position."""

    position: np.ndarray
    """int64[n] ascending."""
    text: np.ndarray
    """int64[n]: the text for which each is replaced, as an index in `Removals.texts`."""
    held: Sequence[np.ndarray]
    """n arrays: all removed texts in each row, of any experiment."""
    occurrences: np.ndarray
    """int64[texts]: how often each text would occur in the run without any edits."""


def find_rows(
    removals: Removals,
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    seed: int,
    covered: np.ndarray,
) -> Rows:
    """Scan the training windows for rows to replace, except `covered` rows, int64[c].

    If several experiments remove texts of a row, a keyed hash of the row decides whose edit it is.
    """
    length, total = geometry.length, geometry.sequences
    found = scan_run(corpus, order, geometry, removals.patterns)
    windows, first, count = np.unique(found.where // length, return_index=True, return_counts=True)
    position, which = order.positions(windows, total)
    times = np.repeat(np.bincount(which, minlength=len(windows)), count)
    occurrences = np.bincount(found.pattern, times, len(removals.texts)).astype(np.int64)
    left = ~np.isin(position, covered)
    position, which = position[left], which[left]
    # One entry for each pair of a row and a text in it; each row takes its entry of lowest rank.
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


def draw_replacements(removals: Removals, rows: Rows, free: np.ndarray, seed: int) -> np.ndarray:
    """Draw a different reserve window that is `free` (bool[windows]) for each row, int64[n]."""
    keys = np.empty(len(rows.position), np.uint64)
    for number, name in enumerate(removals.names):
        own = removals.owner[rows.text] == number
        keys[own] = request_keys(seed, f"removal/{name}", rows.position[own])
    return draw_windows(keys, free)


def removal_items(
    name: str, removals: Removals, rows: Rows, windows: np.ndarray
) -> Iterator[Items]:
    """Yield the items of an experiment's removals: held-out texts, then the rows it replaces.

    `windows` int64[n] are the replacements of all rows.
    """
    number = removals.names.index(name)
    own = np.flatnonzero(removals.owner == number)
    for block in _split(own):
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
    for block in _split(np.flatnonzero(removals.owner[rows.text] == number)):
        yield Items(
            ids=[f"row-{position}" for position in rows.position[block].tolist()],
            **_conditions([removals.texts[i][1].condition for i in rows.text[block].tolist()]),
            repetitions=1,
            windows=windows[block],
            placement=Explicit(rows.position[block]),
            fields={"removes": [[removals.title(i) for i in rows.held[row]] for row in block]},
        )


def _split(rows: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), _BLOCK):
        yield rows[first : first + _BLOCK]


def _conditions(names: Sequence[str]) -> dict[str, Any]:
    """Return the arguments `condition` and `codes` of `Items`."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return {"condition": list(numbers), "codes": np.array([numbers[name] for name in names])}


_SINGLES = 4096  # single items that are checked together


def check_slot_texts(slot_texts: SlotTexts, removals: Removals) -> None:
    """Raise ValueError if a text that a controller may insert contains a removed one."""
    names = (f"{slot_texts.slots}, text {k}" for k in range(len(slot_texts.texts)))
    texts = zip(names, slot_texts.texts, strict=True)
    items = [Item(name, "", 1, tokens=text) for name, text in texts]
    for _ in CheckedItems(slot_texts.experiment, items, removals):
        pass


@dataclasses.dataclass(frozen=True)
class CheckedItems:
    """Iterates over the items of an experiment; raises ValueError at an inserted removed text.

    A held-out item may contain a removed text.
    """

    name: str
    items: Iterable[Item | Items]
    removals: Removals

    def __iter__(self) -> Iterator[Item | Items]:
        waiting: list[Item] = []
        for each in self.items:
            if isinstance(each, Item):
                waiting.append(each)
            if waiting and (isinstance(each, Items) or len(waiting) == _SINGLES):
                yield from self._check_singles(waiting)
                waiting = []
            if isinstance(each, Items):
                self._check_block(each)
                yield each
        yield from self._check_singles(waiting)

    def _check_singles(self, items: list[Item]) -> list[Item]:
        texts = [item for item in items if item.tokens is not None and item.repetitions]
        self._check([item.id for item in texts], [np.asarray(item.tokens) for item in texts])
        return items

    def _check_block(self, items: Items) -> None:
        if items.tokens is None or items.lengths is None:
            return
        ends = np.cumsum(items.lengths)
        repeated = np.broadcast_to(np.asarray(items.repetitions), len(items.ids))
        inserted = np.flatnonzero(repeated).tolist()
        texts = [items.tokens[ends[i] - items.lengths[i] : ends[i]] for i in inserted]
        self._check([items.ids[i] for i in inserted], texts)

    def _check(self, ids: list[str], texts: list[np.ndarray]) -> None:
        """Check texts, int[n] each, in the order of `ids`."""
        if not texts:
            return
        ends = np.cumsum([len(text) for text in texts])
        where, text = self.removals.patterns.find(np.concatenate(texts))
        item = np.searchsorted(ends, where, "right")
        inside = np.flatnonzero(where + self.removals.patterns.lengths[text] <= ends[item])
        if len(inside):
            item, text = item[inside], text[inside]
            many = len(np.unique(item))
            more = f" (and so do {many - 1} more of its items)" if many > 1 else ""
            raise ValueError(
                f"{self.name}: item {ids[item[0]]!r} inserts a text that is removed from "
                f"training, {self.removals.title(int(text[0]))}{more}: drop it from one of the two"
            )
