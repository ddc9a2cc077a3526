"""Experiments that remove texts, and plain Python that says what is left of them."""

import dataclasses
from typing import ClassVar

import numpy as np

from ttoaa.data.order import training_order
from ttoaa.experiments.base import Experiment
from ttoaa.planning.audit.reference_reader import PlainReader
from ttoaa.planning.items import RESERVE, Item
from ttoaa.planning.removal import Removal

LENGTH, SEQUENCES = 32, 320  # over two epochs of 139 windows


@dataclasses.dataclass(frozen=True)
class Removing(Experiment):
    """Removes `texts` (condition, tokens) and, if asked to, inserts `items`."""

    primary: str = "value/x"
    expected_sign: int = 1
    texts: tuple = ()
    items: tuple = ()
    windows: int = 0

    signs: ClassVar = {"value": 1}

    def reserve_windows(self, geometry):
        return self.windows

    def removes(self, world):
        assert len(world.windows) == 0 and world.reserve_NxL.shape == (0, LENGTH)
        for number, (condition, tokens) in enumerate(self.texts):
            tokens = np.array(tokens)
            text = world.tokenizer.decode(tokens)
            yield Removal(f"text-{number}", condition, tokens, text, {"number": number})

    def intervene(self, world):
        yield from self.items
        for i, window in enumerate(world.windows):
            yield Item(f"own-{i}", "own", 1, window=int(window))


def holds(row, text):
    """Plain Python, of two lists."""
    return sum(row[i : i + len(text)] == text for i in range(len(row) - len(text) + 1))


def stream(plan):
    """All rows that the run trains on, composed by the audit's plain code."""
    reader = PlainReader(plan.folder.parent / "corpus", plan.folder)
    return [reader.row(position)[0] for position in range(SEQUENCES)]


def original(corpus, seed=0):
    order = training_order(corpus, seed, LENGTH)
    windows = order.windows(np.arange(SEQUENCES))
    return corpus.windows("train", windows, LENGTH).tolist()


def rows_of(plan, name):
    """{position: reserve window} of what an experiment's removals replaced."""
    columns, found = plan.columns, {}
    for edit in np.flatnonzero(columns["kind"] == RESERVE):
        ((experiment, item),) = plan.names(columns["item"][edit : edit + 1])
        if experiment == name and item == f"row-{columns['position'][edit]}":
            found[int(columns["position"][edit])] = int(columns["source"][edit])
    return found


def edits_of(plan, name):
    """{(item, repetition): (position, offset, source of a window)} but for replaced rows."""
    columns, names = plan.columns, plan.names(plan.columns["item"])
    return {
        (item, int(columns["repetition"][e])): (
            int(columns["position"][e]),
            int(columns["offset"][e]),
            int(columns["source"][e]) if columns["kind"][e] == RESERVE else None,
        )
        for e, (experiment, item) in enumerate(names)
        if experiment == name and not item.startswith("row-")
    }


def texts_of(corpus):
    """Texts of 7 tokens out of the training windows, one that is in the reserve too, one in none.

    Their near-duplicates, which differ in one token, stay.
    """
    train = corpus.windows("train", np.arange(139), LENGTH).tolist()
    reserve = corpus.windows("reserve", np.arange(64), LENGTH).tolist()
    grams = {tuple(row[i : i + 4]) for row in reserve for i in range(29)}
    grams = [g for g in sorted(grams) if 1 <= sum(holds(row, list(g)) > 0 for row in train) <= 4]
    shared = max(grams, key=lambda g: sum(holds(row, list(g)) > 0 for row in reserve))
    places = [("exact", 5, 0), ("exact", 5, 20), ("late", 60, 25), ("late", 138, 11)]
    own = [(condition, train[window][i : i + 7]) for condition, window, i in places]
    return [*own, ("shared", list(shared)), ("absent", [318] * 5)]
