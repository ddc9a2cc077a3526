"""Rows of training replaced by others of the same distribution: loss and membership by age (E.10).

What the model learns about a single row of ordinary text, and for how long it shows. Every
comparison is with held-out windows of the same reserve, on which no run trains.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import Count, Increasing, NotEmpty, PositiveInt, config_class
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.report_labels import AUC as AUC_LABEL
from ttoaa.experiments.report_labels import TPR as TPR_LABEL
from ttoaa.experiments.report_labels import Label, ReportLabels
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.items import Items
from ttoaa.planning.placement import Placement, Uniform, Within
from ttoaa.scoring.membership import AUC, TPR, membership_estimates, statistics_for
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    count_groups,
    difference_in_differences,
    estimate,
    keyed_rng,
    paired_estimates,
)
from ttoaa.statistics.power import Precision

CROSS_ENTROPY = "cross_entropy"
ABOVE = "cross_entropy_above_held_out"
FALL = "fall_since_training"
HALVES = "cross_entropy_of_half_the_held_out"
"""The placebo: one random half of the held-out documents against the other half."""

HELD_OUT = "held-out"
_UNIFORM, _SELECTED = "uniform", "selected"
_PARTS = 10
_DECILES = tuple(f"decile-{k}" for k in range(_PARTS))
_KEYS = ["item", "condition"]


@gin.configurable
@config_class
class IidReplacements(Experiment):
    """Replace rows by reserve windows: anywhere, in each decile of training, and repeatedly.

    Windows of 'uniform' replace a row anywhere in training, those of 'decile-0' to 'decile-9' one
    in that tenth of it, and those of 'selected' several rows in a stretch. 'held-out' windows are
    in no run. Outcomes are the mean loss ('cross_entropy', nats a token); that above the held-out
    windows, less the same in the control run ('cross_entropy_above_held_out'); the AUC of the loss
    attack against the held-out windows ('auc'); and how far the loss has fallen since the row was
    trained on ('fall_since_training'), see `estimates`. Conditions 'age-…' regroup the windows
    with one copy by the number of updates since that copy.

    Intervals resample documents. Conditions have all their windows at every checkpoint, also those
    that are trained on later: before its tenth of training, a decile is one more null.
    """

    uniform: Count = 24
    """Windows that replace one row anywhere in training."""
    decile: Count = 10
    """Windows that replace one row of each tenth of training."""
    selected: Count = 8
    """Windows that replace several rows in a stretch of training."""
    repetitions: PositiveInt = 4
    """Copies of each selected window."""
    stretch: Placement = Within(0.5, 0.6)
    """Where the copies of selected windows go."""
    held_out: PositiveInt = 64
    """Windows on which no run trains."""
    scored: PositiveInt | None = None
    """Scored windows of each condition; None: all."""
    ages: Annotated[Sequence[PositiveInt], NotEmpty(), Increasing()] = (32, 128)
    """Upper bounds of the conditions 'age-1-32', 'age-33-128', …, and 'age-over-128'."""

    prior = PriorFinding(
        work="Bordt and Pawelczyk 2025",
        finding="Text of the training distribution is remembered after being seen once.",
        effect="cross-entropy of inserted windows 0.2 nats lower",
        source="arXiv 2509.23383, section 5",
    )
    labels = ReportLabels(
        question="What does a model keep of rows of ordinary text that it was trained on?",
        method="Rows of training are replaced by others of the same distribution, once or several "
        "times. Their loss is compared with that of held-out rows, which no run trains on, and "
        "with the same difference in the control run.",
        caption="How much lower the loss of the rows is than that of held-out ones, less the same "
        "in the control run, by the tenth of training that they replaced, with 95% intervals over "
        "documents. Crosses: how far the loss has fallen since the row was trained on.",
        outcomes={
            CROSS_ENTROPY: Label("loss", "nats per token"),
            ABOVE: Label("loss above the held-out rows", "nats per token"),
            AUC: AUC_LABEL,
            TPR: TPR_LABEL,
            FALL: Label(
                "fall of the loss since the row was trained on",
                "nats per token",
                against="for text that the model has not seen",
            ),
            HALVES: Label("loss of half of the held-out rows above the rest", "nats per token"),
        },
        conditions={
            _UNIFORM: "one copy, anywhere in training",
            _SELECTED: "several copies",
            HELD_OUT: "held out",
            r"decile-(\d)": r"one copy, in tenth \1 of training",
            r"age-(\d+)-(\d+)": r"one copy, \1 to \2 steps ago",
            r"age-over-(\d+)": r"one copy, more than \1 steps ago",
        },
        curves=(r".*/decile-\d",),
    )
    signs: ClassVar[Mapping[str, int]] = {
        **dict.fromkeys((CROSS_ENTROPY, ABOVE, HALVES), -1),
        **dict.fromkeys((AUC, TPR, FALL), 1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        outcome, _, condition = self.primary.partition("/")
        known = [name for name, number in self._sizes.items() if number]
        known += self._age_names
        if outcome != CROSS_ENTROPY:
            known.remove(HELD_OUT)
        if condition not in known or outcome == HALVES:
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    @property
    def placebo(self) -> str:
        return f"{HALVES}/{HELD_OUT}" if self.held_out > 1 else ""

    @property
    def _sizes(self) -> dict[str, int]:
        """The number of windows of each condition that items have."""
        deciles = dict.fromkeys(_DECILES, self.decile)
        ends = {_SELECTED: self.selected, HELD_OUT: self.held_out}
        return {_UNIFORM: self.uniform} | deciles | ends

    @property
    def _age_names(self) -> list[str]:
        lows = [1, *(age + 1 for age in self.ages)]
        names = [f"age-{low}-{high}" for low, high in zip(lows, self.ages, strict=False)]
        return [*names, f"age-over-{self.ages[-1]}"]

    def _placement(self, condition: str) -> Placement:
        if condition in _DECILES:
            k = _DECILES.index(condition)
            return Within(k / _PARTS, (k + 1) / _PARTS)
        return self.stretch if condition == _SELECTED else Uniform()

    def reserve_windows(self, geometry: Geometry) -> list[int]:
        return list(self._sizes.values())

    def intervene(self, world: World) -> Iterator[Items]:
        start = 0
        for condition, size in self._sizes.items():
            windows = slice(start, start + size)
            start = windows.stop
            if not size:
                continue
            copies = {_SELECTED: self.repetitions, HELD_OUT: 0}.get(condition, 1)
            yield Items(
                ids=[f"{condition}-{number}" for number in range(size)],
                condition=condition,
                repetitions=copies,
                windows=world.windows[windows],
                placement=self._placement(condition),
                fields={"document": world.documents[windows].tolist()},
            )

    def burst(self, size: BurstSize) -> "IidReplacements":
        """Return fewer windows of the primary's condition, anywhere in the burst."""
        condition = self.primary.partition("/")[2]
        sizes = {name: number for name, number in self._sizes.items() if name != HELD_OUT}
        kept = condition if condition in sizes else _UNIFORM  # which has all ages
        number = size.items(kept, sizes[kept])
        return dataclasses.replace(
            self,
            uniform=number if kept == _UNIFORM else 0,
            decile=number if kept in _DECILES else 0,
            selected=number if kept == _SELECTED else 0,
            stretch=Uniform(),
        )

    def precision(self, geometry: Geometry) -> Precision | None:
        """Intervals resample documents, so several windows of one document count for less."""
        outcome, _, condition = self.primary.partition("/")
        if condition not in self._sizes:
            return None  # how many windows have an age follows from the plan
        own, others = (
            min(self._sizes[name], self.scored or self._sizes[name])
            for name in (condition, HELD_OUT)
        )
        if outcome == AUC:
            return Precision.of_auc(own, others, "windows")
        if outcome == TPR:
            return Precision.of_rate(own, others, "windows")
        return Precision((own,) if outcome == CROSS_ENTROPY else (own, others), "windows")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Per window its loss (nats a token), by condition and, if it has one copy, also by age.

        Column `online` is the loss of its row when it was first trained on: the mean over the rows
        of the condition in that step, which is one row in most. `corpus` is that of the corpus text
        in the same step. Both are nan if the run has not trained on it.
        """
        items = model.items[["id", "condition", "window", "document"]]
        if self.scored is not None:
            items = items.groupby("condition", sort=False).head(self.scored)
        tokens_NxL = model.reserve(items["window"].to_numpy())
        scores = model.log_likelihood([(tokens, 1) for tokens in tokens_NxL])
        first = model.copies.groupby("id")["step"].min().reindex(items["id"]).to_numpy()
        trained = first < model.step
        of_step = model.arm_losses.set_index(["condition", "step"])["loss"]
        table = pd.DataFrame(
            {
                "item": items["id"].to_numpy(),
                "condition": items["condition"].to_numpy(),
                "outcome": CROSS_ENTROPY,
                "value": [-float(np.mean(each, dtype=float)) for each in scores],
                "group": items["document"].astype(str).to_numpy(),
                "age": np.where(trained, model.step - first, np.nan),
            }
        )
        for column, arms in (("online", table["condition"]), ("corpus", [""] * len(table))):
            places = pd.MultiIndex.from_arrays([arms, first])
            table[column] = np.where(trained, of_step.reindex(places).to_numpy(float), np.nan)
        once = table[table["age"].notna() & (table["condition"] != _SELECTED)]
        names = np.array(self._age_names)[np.searchsorted(self.ages, once["age"])]
        return pd.concat([table, once.assign(condition=names)], ignore_index=True)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        """Compare every condition with the held-out windows, in the run and in the control run.

        'fall_since_training' compares within the run instead, for text on which the control run
        does not train: `value` is the loss when a row was trained on less its loss now, and
        `control_value` the same for text that the model has not seen: corpus text of the same
        steps less the held-out windows now. A model that only got better at all text has a value
        above zero, but no difference.
        """
        found = paired_estimates(run, control, self.sign)
        both = run.merge(control[[*_KEYS, "value"]], on=_KEYS, suffixes=("", "_control"))
        held_out = both[both["condition"] == HELD_OUT]
        for name, rows in both.groupby("condition", sort=False):
            if name != HELD_OUT:
                found += self._against(held_out, rows, str(name))
        if self.placebo:
            found.append(self._halves(held_out))
        return found

    def _against(
        self, held_out: pd.DataFrame, rows: pd.DataFrame, condition: str
    ) -> Iterator[Estimate]:
        """Yield the estimates of a condition against the held-out windows."""
        yield _above(ABOVE, condition, rows, held_out)
        (run, control), (run_out, control_out) = _values(rows), _values(held_out)
        yield from membership_estimates(
            *(-run, -run_out, -control, -control_out),  # the loss attack: higher for members
            condition,
            self.sign,
            groups=(rows["group"].to_numpy(), held_out["group"].to_numpy()),
            statistics=statistics_for(len(held_out)),
        )
        known = rows[rows["online"].notna() & rows["corpus"].notna()]
        if len(known):
            yield _fall(condition, known, held_out)

    def _halves(self, held_out: pd.DataFrame) -> Estimate:
        """Compare two random halves of the held-out documents, of which no run trains on either."""
        documents = np.sort(held_out["group"].unique())
        first = keyed_rng(HALVES, self.name).permutation(documents)[::2]
        inside = held_out["group"].isin(first)
        return _above(HALVES, HELD_OUT, held_out[inside], held_out[~inside])

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw how much lower the loss of each condition is than that of held-out windows."""
        final = estimates[estimates["step"] == estimates["step"].max()]
        final = final.set_index("condition", drop=False)
        names = [*_DECILES, _UNIFORM, _SELECTED]
        seeds = list(final["seed"].unique())
        for number, seed in enumerate(seeds):
            own = final[final["seed"] == seed]
            x = np.arange(len(names)) + 0.12 * (number - (len(seeds) - 1) / 2)
            gain = own[own["outcome"] == ABOVE].reindex(names)
            color, low, high = f"C{number}", "difference_ci_low", "difference_ci_high"
            axes.vlines(x, gain[low], gain[high], color=color)
            axes.plot(x, gain["difference"], "o", color=color, label=f"seed {seed}")
            fall = own[own["outcome"] == FALL]["difference"].reindex(names)
            label = "below its online loss" if number == 0 else None
            axes.plot(x, fall, "x", color=color, alpha=0.6, label=label)
        axes.axhline(0, color="gray", linestyle="--", label="held-out windows")
        ends = {_UNIFORM: "anywhere", _SELECTED: "several copies"}
        labels = [ends.get(name, name.removeprefix("decile-")) for name in names]
        axes.set_xticks(range(len(names)), labels)
        for tick in axes.get_xticklabels()[-len(ends) :]:  # the only long ones
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlabel("tenth of training that the row replaced")
        axes.set_ylabel("gain (nats per token)")
        axes.legend()


def _above(outcome: str, condition: str, rows: pd.DataFrame, others: pd.DataFrame) -> Estimate:
    """Estimate the loss above that of other windows, less the same in the control run."""
    groups = rows["group"].to_numpy(), others["group"].to_numpy()
    values = (*_values(rows), *_values(others))
    return difference_in_differences(outcome, condition, *values, sign=-1, groups=groups)


def _values(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses in the run and in the control run, float64[n] each."""
    return rows["value"].to_numpy(float), rows["value_control"].to_numpy(float)


def _fall(condition: str, rows: pd.DataFrame, held_out: pd.DataFrame) -> Estimate:
    """Estimate the fall since training, and that of text that the model has not seen."""
    now, online, corpus = (rows[n].to_numpy(float) for n in ("value", "online", "corpus"))
    unseen_now = held_out["value"].to_numpy(float)

    def statistic(counts_RxN: np.ndarray, counts_RxM: np.ndarray) -> np.ndarray:
        fall_R, above_R = (
            counts_RxN @ each / counts_RxN.sum(1) for each in (online - now, online - now - corpus)
        )
        return np.stack([fall_R, above_R + counts_RxM @ unseen_now / counts_RxM.sum(1)], 1)

    sizes = len(rows), len(held_out)
    groups = rows["group"].to_numpy(), held_out["group"].to_numpy()
    results = bootstrap(sizes, statistic, FALL, condition, groups=groups)
    unseen = float(corpus.mean() - unseen_now.mean())
    return estimate(FALL, condition, sizes[0], results, unseen, count_groups(sizes, groups))
