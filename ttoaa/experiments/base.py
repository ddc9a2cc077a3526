"""What an experiment is: data, an intervention, an outcome, a figure.

An author subclasses `Experiment` in one new file. Nothing here knows the trainer or the mesh.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import training_order
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.controllers import Controller
from ttoaa.planning.items import Item, Items
from ttoaa.planning.placement import AtOccurrences
from ttoaa.planning.removal import Removal, at_occurrences
from ttoaa.scoring.requests import Sampling
from ttoaa.statistics.bootstrap import Estimate, keyed_rng, paired_estimates

if TYPE_CHECKING:  # planning imports this file, and does without JAX
    from ttoaa.scoring.likelihood import Moments


@dataclasses.dataclass(frozen=True)
class World:
    """What an experiment may look at when it decides what to do."""

    seed: int
    name: str
    tokenizer: Tokenizer
    geometry: Geometry
    windows: np.ndarray
    """int64[n]: the reserve windows that are this experiment's own (see `reserve_windows`)."""
    reserve: Callable[[], np.ndarray]
    """Reads the tokens of those windows."""
    corpus: Corpus | None = None

    @functools.cached_property
    def reserve_NxL(self) -> np.ndarray:
        """int32[n, L]: the tokens of those windows, read when they are first looked at."""
        return self.reserve()

    def at(self, sequences: Sequence[np.ndarray], where: str = "after") -> AtOccurrences:
        """Where one of these int[n] token sequences occurs in the run, as a placement.

        `where` is 'after' it, 'over' it or 'row' (see `planning.removal`).
        """
        assert self.corpus is not None
        order = training_order(self.corpus, self.seed, self.geometry.length)
        return at_occurrences(sequences, self.corpus, order, self.geometry, where)

    def rng(self, *salt: object) -> np.random.Generator:
        """A stream of this experiment's own: adding other experiments does not move it."""
        return keyed_rng("experiment", self.seed, self.name, *salt)


@dataclasses.dataclass(frozen=True)
class Probe:
    """A cheap measurement inside training: the mean loss of each row, at given steps.

    At step s the model has been updated s times; the batch of step s has not been seen.
    """

    name: str
    tokens_NxL: np.ndarray
    steps: Sequence[int]


class Scorer(Protocol):
    """One checkpoint of one run, as an outcome sees it."""

    @property
    def step(self) -> int: ...

    @property
    def items(self) -> pd.DataFrame:
        """The experiment's items: id, condition, repetitions, tokens, window, text, its fields."""
        ...

    @property
    def probes(self) -> pd.DataFrame:
        """Its in-training probes up to `step`: columns step, probe, row, loss (nats a token)."""
        ...

    @property
    def decisions(self) -> pd.DataFrame:
        """Of its controllers up to `step`: columns interval, step, slots, chosen (list of int, None
        in a control run), log_p (list of float, nats), state (dict or None)."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def log_likelihood(self, requests: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """For each (tokens int[n], start >= 1): log p(tokens[i] | tokens[:i]), i = start..n-1."""
        ...

    def vocabulary_moments(self, requests: Sequence[tuple[np.ndarray, int]]) -> "list[Moments]":
        """These with what the model expects of each: for Min-K%++ (see `scoring.attacks`)."""
        ...

    def embedding_gradients(self, requests: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """float32[n, D] for each: of the sum of its log p with respect to the input embeddings."""
        ...

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        keys: Sequence[int | str] | None = None,
    ) -> list[np.ndarray]:
        """The new tokens of each prompt (see `scoring.generation.generate`)."""
        ...


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Base of every experiment; subclasses are frozen dataclasses, made by gin."""

    name: str
    """Unique in the study; keys the experiment's random stream."""
    primary: str
    """The one primary outcome, declared before looking: 'outcome/condition'."""
    expected_sign: int
    """+1 or -1: the sign of (run - control) that the primary outcome is expected to have."""

    signs: ClassVar[Mapping[str, int]] = {}
    """The expected sign of run - control for every outcome that `estimates` returns."""
    version: ClassVar[int] = 1
    """Of what `outcome` measures: raised when that changes, old checkpoints are scored anew."""
    inserts: ClassVar[bool] = True
    """False where all items are held out (and nothing is probed, and no reserve window is asked
    for): such an experiment may be added to a study after its runs, which are then only scored."""

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if not isinstance(self.name, str) or not self.name or not set(self.name) <= _NAME:
            raise ValueError(
                f"{kind}.name must be letters, digits, '-', '_' or '.', not {self.name!r}"
            )
        outcome, slash, condition = str(self.primary).partition("/")
        if outcome not in self.signs or not slash or not condition:
            raise ValueError(
                f"{self.name}: primary must be 'outcome/condition' with an outcome among "
                f"{sorted(self.signs)}, not {self.primary!r}"
            )
        if self.expected_sign not in (-1, 1):
            raise ValueError(f"{self.name}: expected_sign must be +1 or -1")

    def sign(self, outcome: str) -> int:
        """How differences of `outcome` are oriented, so that what is expected is positive."""
        primary, _, _ = self.primary.partition("/")
        return self.expected_sign if outcome == primary else self.signs[outcome]

    def reserve_windows(self, geometry: Geometry) -> int:
        """How many reserve windows the experiment needs for itself."""
        return 0

    def removes(self, world: World) -> Iterable[Removal]:
        """Texts that must not occur in the run: every row that holds one is replaced.

        Asked before windows of the reserve are dealt out, so this world has none; and before the
        control run as well, so that both runs deal out the same.
        """
        return ()

    def probes(self, world: World) -> Sequence[Probe]:
        """Measurements inside training, the same in the control run and the experiment run."""
        return ()

    def controllers(self, world: World) -> Sequence[Controller]:
        """Closed loops that decide during the run what fills the experiment's slots (C6).

        The control run measures for them, at the same steps, and decides nothing.
        """
        return ()

    def intervene(self, world: World) -> Iterator[Item | Items]:
        """Every item, inserted or held out."""
        raise NotImplementedError

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Measures one checkpoint: a tidy table with columns item, condition, outcome, value."""
        raise NotImplementedError

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        """Numbers with intervals from the outcome tables of the run and of its control.

        By default the mean of each (outcome, condition), paired by item with the control run.
        """
        return paired_estimates(run, control, self.sign)

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draws the experiment's figure on matplotlib `axes`.

        `estimates` has a row for each estimate of each evaluated step and seed: the columns of
        `Estimate`, and seed and step.
        """
        raise NotImplementedError


_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
