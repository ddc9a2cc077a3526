"""The base class of experiments and what its methods receive: `World`, `Probe`, `Scorer`.

An experiment is one subclass of `Experiment` in one file (docs/extending/experiment.md). It knows
neither the trainer nor the device mesh.
"""

import dataclasses
import functools
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from ttoaa.config_fields import NonNegative, OneOf, config_class
from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order, training_order
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.controllers import Controller
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.report_labels import ReportLabels
from ttoaa.experiments.scorer import Model, Scorer
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.expected_insertions import Insertions, count_insertions
from ttoaa.planning.items import Item, Items
from ttoaa.planning.placement import AtOccurrences
from ttoaa.planning.removal import Removal, at_occurrences
from ttoaa.statistics.bootstrap import Estimate, keyed_rng, paired_estimates
from ttoaa.statistics.power import Precision


@dataclasses.dataclass(frozen=True)
class World:
    """The context of one experiment: everything it may look at before training."""

    seed: int
    """The study's seed (`--seed`)."""
    name: str
    """The experiment's name."""
    tokenizer: Tokenizer
    geometry: Geometry
    """Tokens of a row, rows of a batch, steps of training."""
    windows: np.ndarray
    """int64[n]: the reserve windows assigned to this experiment (see `reserve_windows`)."""
    reserve: Callable[[], np.ndarray]
    """Reads the tokens of `windows`; use `reserve_NxL`."""
    documents: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    """int64[n]: the run of whole documents of each window. Windows with different numbers share no
    document; use the number as the `group` of what you measure on a window."""
    corpus: Corpus | None = None
    choices: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
    """What `Experiment.choose` returned; empty for an experiment that does not choose."""
    stream: Order | None = None
    """The training order; None: that of a run of this seed (see `order`)."""

    @functools.cached_property
    def reserve_NxL(self) -> np.ndarray:
        """int32[n, L]: the tokens of `windows`, read at the first access."""
        return self.reserve()

    @property
    def order(self) -> Order:
        """The order in which the run trains on the windows of the corpus."""
        assert self.corpus is not None
        return self.stream or training_order(self.corpus, self.seed, self.geometry.length)

    def at(self, sequences: Sequence[np.ndarray], where: str = "after") -> AtOccurrences:
        """Return the placement at all occurrences in the run of these int[n] token sequences.

        `where` is 'after' or 'over' the occurrence, or 'row' (see `planning.removal`).
        """
        assert self.corpus is not None
        return at_occurrences(sequences, self.corpus, self.order, self.geometry, where)

    def rng(self, *salt: object) -> np.random.Generator:
        """Return the random stream keyed by (seed, name, salt).

        Other experiments do not influence it. Use a separate salt for each thing you draw: then a
        change to one leaves the others as they are.
        """
        return keyed_rng("experiment", self.seed, self.name, *salt)

    def document(self, tokens: np.ndarray, what: str, advice: str = "shorten it") -> np.ndarray:
        """Return `tokens` between two EOS, int32[n + 2]; without the first if a row has no room.

        Raises ValueError, with `what` and `advice`, if the text and one EOS do not fit a row.
        """
        eos, row = np.array([self.tokenizer.eos_id], np.int32), self.geometry.length
        if len(tokens) + 1 > row:
            raise ValueError(
                f"{what} has {len(tokens)} tokens, which with an EOS does not fit a row of {row}: "
                f"{advice}, or raise Geometry.length"
            )
        return np.concatenate([eos, tokens, eos] if len(tokens) + 2 <= row else [tokens, eos])


@dataclasses.dataclass(frozen=True)
class Probe:
    """A cheap measurement during training: the mean loss of each row at given steps.

    At step s the model has been updated s times and has not seen the batch of step s.
    """

    name: str
    """Unique in the experiment."""
    tokens_NxL: np.ndarray
    """int32[N, L]"""
    steps: Sequence[int]


Sign = Annotated[int, OneOf((-1, 1))]


@config_class
class Experiment:
    """Base class of experiments: subclass it with `@gin.configurable` and `@config_class`.

    | method | called by | default |
    |---|---|---|
    | `choose` | choose, once, if the study has a reference model | nothing |
    | `reserve_windows`, `removes` | plan, train | none |
    | `intervene` | plan (evaluate, if the experiment was added after training) | to be written |
    | `controllers` | plan, train | none |
    | `probes` | train | none |
    | `outcome` | evaluate, once for each checkpoint of each run | to be written |
    | `estimates` | report, once for each evaluated step and seed | paired differences |
    | `burst` | dependence | none: it has no row or column |
    | `expected_insertions` | plan --dry_run | counts the items of `intervene` |
    | `precision` | plan --dry_run | not known |
    | `placebo` | report | none |
    | `disclose` | export | nothing |
    | `figure` | report | to be written |

    Each command is a separate process, and on a pod train is one process per host. A method must
    therefore be a pure function of the config and its arguments: take all randomness from
    `World.rng`, keep no state between calls. Pass data from `intervene` to `outcome` in the fields
    of the items.

    A ValueError from any method ends the command; start its message with the experiment's name and
    say which field to change.
    """

    name: str
    """Unique in the study: keys the random stream and names the tables."""
    primary: str
    """The primary outcome, declared before looking at results: 'outcome/condition'."""
    expected_sign: Sign
    """+1 or -1: the expected sign of (run - control) of the primary outcome."""
    smallest_effect: NonNegative = dataclasses.field(default=0.0, kw_only=True)
    """The smallest difference of the primary outcome that would matter, in its units and declared
    before the run. The finding is replicated only above it, and contradicted if the difference is
    shown to be within +-smallest_effect (see `reporting.replication`)."""
    group: str = dataclasses.field(default="", kw_only=True, repr=False)
    """Who owns the experiment in a run of several groups: `ttoaa export --group` writes the items
    and results of one group alone. It decides no bits, so it may change after the run."""

    prior: ClassVar[PriorFinding | None] = None
    """The published finding that the experiment replicates, for the report's replication table."""
    labels = ReportLabels()
    """The question, and readable titles and units of outcomes and conditions, for the report."""
    signs: ClassVar[Mapping[str, int]] = {}
    """Every outcome that `estimates` returns, with the expected sign of (run - control)."""
    version: ClassVar[int] = 1
    """The version of `outcome`: raise it when the measurement changes, and `evaluate` scores
    existing checkpoints again."""
    inserts: ClassVar[bool] = True
    """False for an experiment whose items are all held out and that has no reserve windows, probes
    or removals. It may be added to a study after training; only `evaluate` then runs again."""
    hazard: ClassVar[Literal["", "backdoor", "watermark", "benchmark"]] = ""
    """What a user of the trained model must know: it obeys triggers, carries a watermark, or was
    trained on test questions. Model cards list these experiments first, in this order."""
    no_burst: ClassVar[str] = "it does not say what a burst of it is (Experiment.burst)"
    """Why `burst` returns None, if it does."""

    def __post_init__(self) -> None:
        """Check rules about several fields. Subclasses call `super().__post_init__()` first."""
        kind = type(self).__name__
        for field, value in (("name", self.name), ("group", self.group)):
            if not set(value) <= _NAME or (field == "name" and not value):
                raise ValueError(
                    f"{kind}.{field} must be letters, digits, '-', '_' or '.', not {value!r}"
                )
        outcome, slash, condition = self.primary.partition("/")
        if outcome not in self.signs or not slash or not condition:
            raise ValueError(
                f"{self.name}: primary must be 'outcome/condition' with an outcome among "
                f"{sorted(self.signs)}, not {self.primary!r}"
            )

    @property
    def placebo(self) -> str:
        """One row of `estimates`, 'outcome/condition', whose difference is zero by construction.

        For example one random half of the held-out items against the other, or a batch that no run
        trains on, probed at the steps of one that is inserted. The report counts how many intervals
        of placebos contain zero. The empty string means that none is declared.
        """
        return ""

    @property
    def needs_reference(self) -> bool:
        """Whether `choose` or `outcome` asks the study's reference model."""
        return type(self).choose is not Experiment.choose

    def choose(self, world: World, model: Model) -> pd.DataFrame:
        """Decide by the reference model, before the plan is made, what the experiment will do.

        Called once for each seed; the table is stored, and all other methods find it in
        `World.choices`. Experiments that override `removes` choose first, when `world.windows` is
        still empty.
        """
        return pd.DataFrame()

    def sign(self, outcome: str) -> int:
        """Return the factor that makes the expected difference of `outcome` positive."""
        primary, _, _ = self.primary.partition("/")
        return self.expected_sign if outcome == primary else self.signs[outcome]

    def reserve_windows(self, geometry: Geometry) -> int | Sequence[int]:
        """Return how many reserve windows this experiment needs, or the sizes of several groups.

        Reserve windows are rows of corpus text that no epoch trains on. Windows of two groups, of
        two experiments, or of an experiment and the validation set never share a document. The
        planner deals them out before any other method runs; `World.windows` and
        `World.reserve_NxL` hold them, group after group.
        """
        return 0

    def removes(self, world: World) -> Iterable[Removal]:
        """Return texts that must not occur in the run: every row that holds one is replaced.

        Called before reserve windows are assigned, so `world.windows` is empty here. The control
        run asks as well: both runs must assign the same windows.
        """
        return ()

    def probes(self, world: World) -> Sequence[Probe]:
        """Return the measurements during training, the same for the control run and the run."""
        return ()

    def controllers(self, world: World) -> Sequence[Controller]:
        """Return the closed loops that fill this experiment's slots during the run (contract C6).

        The control run measures at the same steps and decides nothing.
        """
        return ()

    def intervene(self, world: World) -> Iterator[Item | Items]:
        """Yield every item, inserted (repetitions >= 1) or held out (repetitions 0).

        The planner may iterate more than once and holds only a block of items at a time. For
        millions of items yield `Items`, blocks of columns of about 50,000.
        """
        raise NotImplementedError

    def expected_insertions(self, world: World) -> Insertions:
        """Estimate what the experiment inserts, in seconds and before there is a corpus.

        `world` has no corpus: its tokenizer and reserve are stand-ins. Override it where counting
        the items takes longer than a few seconds.
        """
        items, vocab = self.intervene(world), world.tokenizer.vocab_size
        return count_insertions(self.name, items, world.geometry, vocab)

    def precision(self, geometry: Geometry) -> Precision | None:
        """Return what the design says of the spread of the primary outcome; None if nothing."""
        return None

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Measure one checkpoint: a table with the columns item, condition, outcome, value (float).

        The same code measures the control run and the run. A row is one value of one item; further
        columns are kept for `estimates`.
        """
        raise NotImplementedError

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        """Turn the outcome tables of the run and its control run into numbers with intervals.

        Both tables are of one step and one seed. By default: the mean of each (outcome, condition)
        and its difference from the control run, paired by item.
        """
        return paired_estimates(run, control, self.sign)

    def burst(self, size: BurstSize) -> "Experiment | None":
        """Return the experiment as a burst has it; None if continued training cannot test it.

        A burst continues a checkpoint for few steps, alone or with other experiments, to see
        whether experiments influence each other (`ttoaa dependence`). It has fewer inserted items,
        as `size` says, with all of their repetitions, and the held-out items that the primary
        outcome needs. The name stays: it keys the random streams.
        """
        return None

    def disclose(self, world: World) -> Iterable[str]:
        """Return lines for the model card: every trigger with its effect, every watermark's place.

        Write text of items as `repr`, since the card is Markdown. An experiment that sets `hazard`
        overrides this.
        """
        return ()

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the experiment's figure on the matplotlib `axes`.

        `estimates` has one row for each estimate, evaluated step and seed: the columns of
        `Estimate`, and seed and step.
        """
        raise NotImplementedError


def members_by_repetitions(
    name: str, members: int | Sequence[int], repetitions: Sequence[int]
) -> list[int]:
    """Return the members of each number of repetitions, of which one number may stand for all.

    Raises ValueError, with the experiment's `name`, for a list of another length.
    """
    found = [members] * len(repetitions) if isinstance(members, int) else [*members]
    if len(found) != len(repetitions):
        raise ValueError(
            f"{name}: members has {len(found)} numbers for {len(repetitions)} numbers of "
            "repetitions"
        )
    return found


_NAME = frozenset(string.ascii_letters + string.digits + "-_.")
