"""Refuses items that would put back what an experiment removes, before anything is placed (C3)."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from ttoaa.planning.fillings import Filling
from ttoaa.planning.items import Item, Items
from ttoaa.planning.removal import Removals

_WAITING = 4096  # single items that are looked at together


def check_filling(filling: Filling, removals: Removals) -> None:
    """Raises ValueError where a text that may fill a slot holds a removed one."""
    names = (f"{filling.slots}, text {k}" for k in range(len(filling.texts)))
    texts = zip(names, filling.texts, strict=True)
    items = [Item(name, "", 1, tokens=text) for name, text in texts]
    for _ in Checked(filling.experiment, items, removals):
        pass


@dataclasses.dataclass(frozen=True)
class Checked:
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
