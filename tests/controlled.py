"""A tiny experiment with a closed loop, importable from a gin file and from another process."""

import dataclasses
from typing import ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.experiments.controllers import Measured
from ttoaa.planning.items import Item
from ttoaa.planning.placement import PerInterval


@dataclasses.dataclass(frozen=True)
class Rising:
    """Inserts k texts in interval k, the next ones in turn; one more where log p is above `high`.

    Of what is measured only a coarse step counts, so that the last bits of log p decide nothing.
    """

    slots: str
    every: int
    texts: tuple
    tokens: np.ndarray
    target: int
    most: int
    high: float = -1.0

    @property
    def measured(self):
        start = np.full(len(self.tokens), self.tokens.shape[1] - self.target)
        return Measured(self.tokens, start, start + self.target)

    def start(self):
        return {"next": 0, "above": []}

    def decide(self, state, interval, log_p):
        above = int((log_p > self.high).sum())
        count = min(self.most, interval + above)
        chosen = [(state["next"] + i) % len(self.texts) for i in range(count)]
        return chosen, {"next": state["next"] + count, "above": [*state["above"], above]}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Steered(Experiment):
    """`facts` facts, each with a controller of its own; a text is a context and its target."""

    primary: str = "log_p/fact"
    expected_sign: int = 1
    every: int = 4
    intervals: int = 8
    slots: int = 3
    """Of an interval."""
    length: int = 8
    facts: int = 2
    texts: int = 5
    text_length: int = 8
    most: int | None = None
    high: float = -1.0

    signs: ClassVar = {"log_p": 1}

    def controllers(self, world):
        found = []
        for fact in range(self.facts):
            rng, size = world.rng("fact", fact), world.tokenizer.vocab_size
            texts = rng.integers(1, size, (self.texts, self.text_length)).astype(np.int32)
            most = self.slots if self.most is None else self.most
            found.append(
                Rising(f"fact-{fact}", self.every, tuple(texts), texts[:2], 3, most, self.high)
            )
        return found

    def intervene(self, world):
        for fact in range(self.facts):
            copies = self.intervals * self.slots
            where = PerInterval(self.every)
            yield Item(f"fact-{fact}", "fact", copies, slot=self.length, placement=where)

    def outcome(self, model):
        rows = [
            (f"{each.slots}-{each.interval}", "fact", "log_p", float(np.sum(each.log_p)))
            for each in model.decisions.itertuples()
        ]
        return pd.DataFrame(rows, columns=["item", "condition", "outcome", "value"])

    def figure(self, estimates, axes):
        axes.plot(estimates["step"], estimates["difference"], ".")
