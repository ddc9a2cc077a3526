"""Experiments small enough for a test, importable from a gin file and from another process."""

import dataclasses
from typing import ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.experiments.base import Experiment, Probe
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.planning.removal import Removal

SENTENCE = "the river runs down to a quiet sea and every boat upon it carries grain or salt"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Planted(Experiment):
    """`items` random texts of `length` tokens for each number of repetitions, 0 among them.

    With `windows` it also takes that many whole rows from the reserve. The outcome is each text's
    log-likelihood a token; the probe is the first items' loss at `probe_steps`.
    """

    primary: str = "log_likelihood/4x"
    expected_sign: int = 1
    items: int = 4
    length: int = 9
    repetitions: tuple[int, ...] = (0, 1, 4)
    windows: int = 0
    probe_steps: tuple[int, ...] = ()
    placement: Placement = dataclasses.field(default_factory=Uniform)

    signs: ClassVar = {"log_likelihood": 1}

    def reserve_windows(self, geometry):
        return self.windows

    def probes(self, world):
        texts = [item.tokens for item in self.intervene(world) if item.tokens is not None]
        rows = np.zeros((2, world.geometry.length), np.int32)
        rows[:, : self.length] = texts[:2]
        return [Probe("first", rows, self.probe_steps)] if self.probe_steps else []

    def intervene(self, world):
        for r in self.repetitions:
            for i in range(self.items):
                rng = world.rng("item", r, i)
                tokens = rng.integers(1, world.tokenizer.vocab_size, self.length).astype(np.int32)
                yield Item(
                    id=f"{r}x-{i}",
                    condition=f"{r}x",
                    repetitions=r,
                    tokens=tokens,
                    placement=self.placement,
                    text=world.tokenizer.decode(tokens),
                    fields={"number": i},
                )
        for i, window in enumerate(world.windows):
            yield Item(f"row-{i}", "row", 1, window=int(window), placement=self.placement)

    def burst(self, size):
        items = size.items([f"{r}x" for r in self.repetitions if r], self.items)
        return dataclasses.replace(self, items=items, probe_steps=(0,), windows=0)

    def outcome(self, model):
        items = model.items[model.items["window"] < 0]
        scores = model.log_likelihood([(np.asarray(t, np.int32), 1) for t in items["tokens"]])
        return pd.DataFrame(
            {
                "item": items["id"].to_numpy(),
                "condition": items["condition"].to_numpy(),
                "outcome": "log_likelihood",
                "value": [float(np.mean(score)) for score in scores],
            }
        )

    def figure(self, estimates, axes):
        axes.plot(estimates["step"], estimates["difference"], ".")
        axes.set(xlabel="step", ylabel="difference")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class HeldOut(Planted):
    """Random texts that no run meets: what may be asked of a study after its runs."""

    primary: str = "log_likelihood/0x"
    repetitions: tuple[int, ...] = (0,)

    inserts: ClassVar = False


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Removing(Planted):
    """Removes the two of eight rows' beginnings that the reference model finds likeliest."""

    def choose(self, world, model):
        assert not len(world.windows)
        rows = world.corpus.windows("train", np.arange(8), world.geometry.length)[:, :9]
        scores = [float(s.sum()) for s in model.log_likelihood([(row, 1) for row in rows])]
        best = np.argsort(scores)[-2:]
        return pd.DataFrame({"tokens": rows[best].tolist()})

    def removes(self, world):
        for i, tokens in enumerate(world.choices["tokens"]):
            yield Removal(f"gone-{i}", "gone", np.array(tokens, np.int32))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Choosing(Planted):
    """Inserts the beginning of its likeliest reserve window; scores are above the reference's."""

    windows: int = 3

    def choose(self, world, model):
        rows = world.reserve_NxL[:, : self.length]
        scores = [float(s.sum()) for s in model.log_likelihood([(row, 1) for row in rows])]
        return pd.DataFrame({"tokens": rows.tolist(), "score": scores})

    def intervene(self, world):
        tokens = world.choices["tokens"][int(world.choices["score"].argmax())]
        yield Item("best", "4x", 4, np.array(tokens, np.int32), placement=self.placement)

    def outcome(self, model):
        table = super().outcome(model)
        judged = model.reference.log_likelihood([(model.items["tokens"][0].astype(np.int32), 1)])
        return table.assign(value=table["value"] - float(judged[0].mean()))


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Asking(HeldOut):
    """Chooses after the runs, as it inserts nothing."""

    def choose(self, world, model):
        return pd.DataFrame({"item": ["none"]})

    def intervene(self, world):
        assert len(world.choices) == 1
        return super().intervene(world)


@dataclasses.dataclass(frozen=True)
class Given(Experiment):
    """Exactly these items, for tests of the planner."""

    primary: str = "value/x"
    expected_sign: int = 1
    items: tuple[Item, ...] = ()

    signs: ClassVar = {"value": 1}

    def intervene(self, world):
        yield from self.items
