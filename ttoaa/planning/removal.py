"""Places of a run where token sequences occur in the corpus, for items that are to go there.

Rows that items overwrite as a whole, at places that they dictate: nothing else is left there.

Texts that must not be in a run: rows that hold one become reserve windows (contract C3).

Every training window that the run reaches is scanned. A row that holds a removed text is replaced
whole, in every epoch that trains on it, by a window of its own that holds none (paper, E.5).

Refuses items that would put back what an experiment removes, before anything is placed (C3).
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
from ttoaa.planning.placement import AtOccurrences, Explicit, fixed_addresses, whole_numbers
from ttoaa.planning.plan import Edits
from ttoaa.planning.reserve import draw, key_of, slot_keys

WHERE = ("after", "over", "row")


def scan_run(corpus: Corpus, order: Order, geometry: Geometry, patterns: Patterns) -> Occurrences:
    """Occurrences in the training windows; of windows in the order of a file, those in use."""
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
    """Every place, in all epochs that the run reaches, at which one of int[n] sequences occurs.

    An item goes right 'after' the occurrence, 'over' it (from its first token on), or to the start
    of the 'row' that has it.
    """
    if where not in WHERE:
        raise ValueError(f"an item goes to one of {WHERE}, not {where!r}")
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


def whole_rows(
    name: str, items: Iterable[Item | Items], geometry: Geometry, vocab: int
) -> np.ndarray:
    """int64[n] positions, of the items of experiment `name`.

    Raises ValueError, in one line that names the item, for what cannot be trained on.
    """
    found = [np.empty(0, np.int64)]
    for block in blocks(name, items, geometry.length, vocab):
        whole = (block.length == geometry.length) & np.isin(block.kind, (TOKENS, RESERVE))
        for first, last, placement in block.runs:
            run = slice(first, last)
            where = f"{name}: item {block.ids[first].as_py()!r}"
            repetitions, lengths = block.repetitions[run], block.length[run]
            at = fixed_addresses(where, placement, repetitions, lengths, geometry)
            if at is not None:
                found.append(at[np.repeat(whole[run], repetitions)])
    return np.concatenate(found) // geometry.length


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


_WAITING = 4096  # single items that are looked at together


def check_slot_texts(filling: SlotTexts, removals: Removals) -> None:
    """Raises ValueError where a text that may fill a slot holds a removed one."""
    names = (f"{filling.slots}, text {k}" for k in range(len(filling.texts)))
    texts = zip(names, filling.texts, strict=True)
    items = [Item(name, "", 1, tokens=text) for name, text in texts]
    for _ in CheckedItems(filling.experiment, items, removals):
        pass


@dataclasses.dataclass(frozen=True)
class CheckedItems:
    """The items of experiment `name` as they are; raises ValueError at one that is inserted and
    holds a removed text. A held-out item may hold one."""

    name: str
    items: Iterable[Item | Items]
    removals: Removals

    def __iter__(self) -> Iterator[Item | Items]:
        waiting: list[Item] = []
        for each in self.items:
            if isinstance(each, Item):
                waiting.append(each)
            if waiting and (isinstance(each, Items) or len(waiting) == _WAITING):
                yield from self._singles(waiting)
                waiting = []
            if isinstance(each, Items):
                self._block(each)
                yield each
        yield from self._singles(waiting)

    def _singles(self, items: list[Item]) -> list[Item]:
        texts = [item for item in items if item.tokens is not None and item.repetitions]
        self._check([item.id for item in texts], [np.asarray(item.tokens) for item in texts])
        return items

    def _block(self, items: Items) -> None:
        if items.tokens is None or items.lengths is None:
            return
        ends = np.cumsum(items.lengths)
        repeated = np.broadcast_to(np.asarray(items.repetitions), len(items.ids))
        inserted = np.flatnonzero(repeated).tolist()
        texts = [items.tokens[ends[i] - items.lengths[i] : ends[i]] for i in inserted]
        self._check([items.ids[i] for i in inserted], texts)

    def _check(self, ids: list[str], texts: list[np.ndarray]) -> None:
        """`texts` are int[n] each, in the order of `ids`."""
        if not texts:
            return
        ends = np.cumsum([len(text) for text in texts])
        where, text = self.removals.patterns.find(np.concatenate(texts))
        item = np.searchsorted(ends, where, "right")
        inside = np.flatnonzero(where + self.removals.patterns.lengths[text] <= ends[item])
        if len(inside):
            item, text = item[inside], text[inside]
            many = len(np.unique(item))
            more = f" (and {many - 1} more of its items do so)" if many > 1 else ""
            raise ValueError(
                f"{self.name}: item {ids[item[0]]!r} inserts a text that is to be removed, "
                f"{self.removals.title(int(text[0]))}{more}: leave it out of one of them"
            )
