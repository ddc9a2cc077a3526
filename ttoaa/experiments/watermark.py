"""Gaussian watermarks: noise on the embeddings of whole batches, detected in gradients (E.6).

Training on e + sigma * u once, with u ~ N(0, 1), lowers the loss towards +u. The statistic of a
row is x = -<g, u> / |g|, where g is the gradient of its mean loss with respect to its embeddings
without noise. A learnt watermark is positive; without one x is exactly N(0, 1), whatever g is,
because u is independent of it. The detector needs neither sigma nor another model.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd
import scipy  # its submodules load when they are first used

from ttoaa.config_fields import (
    Above,
    AtMost,
    Count,
    Distinct,
    Increasing,
    NotEmpty,
    PositiveInt,
    config_class,
)
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.report_labels import PERCENT, Label, ReportLabels
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.items import Items, Noise
from ttoaa.planning.placement import Explicit, WholeBatch
from ttoaa.scoring.watermark_detection import (
    CLOSED_FORM,
    COMBINED_P,
    CRITICAL,
    DERIVED,
    FALSE_POSITIVES,
    NEEDED,
    SPREAD,
    derived_estimate,
    watermark_statistic,
)
from ttoaa.statistics.bootstrap import Estimate
from ttoaa.statistics.power import Precision

STATISTIC, FRESH, UNMARKED = "statistic", "statistic_fresh", "statistic_unmarked"
DETECTED, FALSE_ALARM = "detected", "false_alarm"
_ALL = "all"
_AT_ONCE = 64  # rows whose gradients and noise are in memory together


@gin.configurable
@config_class
class GaussianWatermark(Experiment):
    """Add Gaussian noise once to the embeddings of whole batches, and detect it in gradients.

    Rows keep their text. Outcomes by age, the number of updates since the batch was trained on:
    the statistic of the true noise on its rows ('statistic'), of noise that no run had on the same
    rows ('statistic_fresh'), and of the true noise on rows of the nearest batch without noise
    ('statistic_unmarked'); the share of rows detected at 1% false positives, counted ('detected',
    and 'false_alarm' for fresh noise) and in closed form from the mean ('detected_closed_form');
    the one-sided p value of all rows together ('combined_p'); the number of rows that a test at 1%
    needs for power 0.9 ('sequences_needed'); and the standard deviation ('spread'). The control run
    is a third null: it trains on the rows without the noise.

    Intervals are over batches, since the rows of one share an update. The placebo is fresh noise.
    Rows that the repetition filter masks have no loss, so no model learns their watermark: they are
    left out.
    """

    steps: Annotated[Sequence[Count], Distinct()] = ()
    """Steps of which the batch is watermarked, in addition to those of the next fields."""
    every: PositiveInt | None = None
    """Watermark the batch of every this many steps."""
    first: Count | None = None
    """The first step of `every`; by default `every`."""
    checkpoints: Annotated[Sequence[PositiveInt], Distinct()] = ()
    """Steps of checkpoints before which batches are watermarked, at the distances of `before`."""
    before: Annotated[Sequence[PositiveInt], Distinct()] = ()
    """Ages of the watermarks at these checkpoints: the batch of step (checkpoint - age)."""
    sigma: Annotated[float, Above(0), AtMost(1000)] = 1.0
    relative: bool = True
    """Whether sigma is in units of the RMS of the embedding matrix, or absolute."""
    exclusive: bool = True
    """Whether the batches must be free of other experiments' edits. If not, noise is also added to
    what these insert."""
    scored_rows: PositiveInt | None = None
    """Rows of each batch that are scored; None: all."""
    ages: Annotated[Sequence[PositiveInt], NotEmpty(), Increasing()] = (16, 64, 256)
    """Upper bounds of the conditions 'age-1-16', 'age-17-64', …, and 'age-over-256'."""

    prior = PriorFinding(
        work="Pawelczyk et al. 2025",
        finding="Noise added once to the embeddings of a batch is detected in the gradients.",
        effect="mean statistic 0.14 (oldest) to 0.69 (newest batches)",
        source="arXiv 2509.23383, figures 2c, 15",
    )
    labels = ReportLabels(
        question="For how long does noise on the embeddings of one batch stay detectable?",
        method="Whole batches are trained on once with Gaussian noise on their embeddings. The "
        "statistic of a row is the scalar product of its gradient and that noise; without a "
        "watermark it is standard normal.",
        caption="Mean statistic of watermarked rows and of three kinds that have no watermark, by "
        "age, with 95% intervals over batches (left), and the share of rows detected (right). Pale "
        "bars: one standard deviation of single rows.",
        outcomes={
            STATISTIC: Label(
                "watermark statistic",
                "standard deviations",
                help="standard normal for a row without a watermark",
            ),
            FRESH: Label("statistic of unused noise", "standard deviations"),
            UNMARKED: Label("statistic of rows without a watermark", "standard deviations"),
            DETECTED: Label("rows detected at 1% false positives", PERCENT),
            FALSE_ALARM: Label("rows detected by unused noise", PERCENT, help="chance is 1%"),
            CLOSED_FORM: Label("rows detected, computed from the mean statistic", PERCENT),
            COMBINED_P: Label("p-value of all rows together"),
            NEEDED: Label("rows that a test at 1% needs for power 0.9", "rows"),
            SPREAD: Label("spread of the statistic of single rows", "standard deviations"),
        },
        conditions={
            r"age-(\d+)-(\d+)": r"after \1 to \2 updates",
            r"age-over-(\d+)": r"after more than \1 updates",
            _ALL: "all ages",
        },
    )
    hazard = "watermark"
    signs: ClassVar[Mapping[str, int]] = {
        **dict.fromkeys((STATISTIC, FRESH, UNMARKED, DETECTED, FALSE_ALARM, CLOSED_FORM), 1),
        **dict.fromkeys((COMBINED_P, NEEDED), -1),
        SPREAD: 1,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.steps or self.every or (self.checkpoints and self.before)):
            raise ValueError(
                f"{self.name}: name the batches by `steps`, `every`, or `checkpoints` and `before`"
            )
        if bool(self.checkpoints) != bool(self.before):
            raise ValueError(f"{self.name}: `checkpoints` and `before` need each other")
        condition = self.primary.partition("/")[2]
        if condition not in self._conditions:
            raise ValueError(
                f"{self.name}: the primary's condition must be among {self._conditions}"
            )

    @property
    def placebo(self) -> str:
        return f"{FRESH}/{self.primary.partition('/')[2]}"

    @property
    def _conditions(self) -> list[str]:
        """Names of the ranges of ages, and of all ages together."""
        lows = [1, *(age + 1 for age in self.ages)]
        names = [f"age-{low}-{high}" for low, high in zip(lows, self.ages, strict=False)]
        return [*names, f"age-over-{self.ages[-1]}", _ALL]

    def watermarked(self, geometry: Geometry) -> list[int]:
        """Return the steps of which the batch is watermarked, ascending."""
        found = {*self.steps, *(c - age for c in self.checkpoints for age in self.before)}
        if self.every:
            first = self.every if self.first is None else self.first
            found |= {*range(first, geometry.steps, self.every)}
        outside = sorted(step for step in found if not 0 <= step < geometry.steps)
        if outside or len(found) == geometry.steps:
            what = f"step {outside[0]}" if outside else "every step"
            raise ValueError(
                f"{self.name} watermarks {what} of a run of {geometry.steps} steps: change "
                "`steps`, `every`, or `checkpoints` and `before`"
            )
        return sorted(found)

    def intervene(self, world: World) -> Iterator[Items]:
        """Yield a block of items for each batch, and one for the rows that it is compared with.

        Rows without a watermark are the same rows of the nearest batch that has none, the later one
        of two: training rows that the model saw at nearly the same time.
        """
        geometry = world.geometry
        batch, steps = geometry.batch, self.watermarked(geometry)
        scored = min(self.scored_rows or batch, batch)
        noise = Noise(self.sigma, self.relative, self.exclusive)
        free = np.setdiff1d(np.arange(geometry.steps), steps)
        for step in steps:
            gaps = np.abs(free - step) + np.where(free < step, 0.5, 0)
            nearest = int(free[np.argmin(gaps)])
            for at, rows, suffix in ((step, batch, ""), (nearest, scored, "-unmarked")):
                marked, numbers = not suffix, np.arange(rows)
                yield Items(
                    ids=[f"{step}-{row}{suffix}" for row in numbers],
                    condition=suffix[1:] or "watermark",
                    repetitions=int(marked),
                    noise=noise,
                    placement=WholeBatch(steps=(step,), row=0) if marked else Explicit(()),
                    fields={
                        "step": [step] * rows,
                        "row": numbers.tolist(),
                        "position": (at * batch + numbers).tolist(),
                        "scored": (numbers < scored).tolist(),
                    },
                )

    def burst(self, size: BurstSize) -> "GaussianWatermark":
        """Return one batch in the middle, or at the nearest age that the primary is about."""
        steps, condition = size.geometry.steps, self.primary.partition("/")[2]
        low, high = 1, steps
        if condition != _ALL:
            place = self._conditions.index(condition)
            low = 1 + (0, *self.ages)[place]
            high = (*self.ages, steps)[place]
        if low > steps:
            raise ValueError(
                f"{self.name}: the primary {self.primary} is not measured in a burst of {steps} "
                "steps: use longer ones"
            )
        age = min(max(low, steps // 2), high)
        none: Sequence[int] = ()
        return dataclasses.replace(
            self, steps=(steps - age,), every=None, first=None, checkpoints=none, before=none
        )

    def precision(self, geometry: Geometry) -> Precision | None:
        """Without an effect the statistic of a row is N(0, 1), in the run and in the control run.

        The two count as independent, which is an upper bound.
        """
        outcome, _, condition = self.primary.partition("/")
        ages = geometry.steps - np.array(self.watermarked(geometry))
        place = np.searchsorted(self.ages, ages)
        batches = sum(condition in (_ALL, self._conditions[each]) for each in place)
        if not batches:
            return None
        rows = min(self.scored_rows or geometry.batch, geometry.batch)
        if outcome in (STATISTIC, FRESH, UNMARKED):
            return Precision((batches,), "batches", math.sqrt(2 / rows), True, "(statistic)")
        if outcome in (DETECTED, FALSE_ALARM):
            rate = FALSE_POSITIVES * (1 - FALSE_POSITIVES)
            return Precision(
                (batches,), "batches", math.sqrt(2 * rate / rows), True, "(rate of detection)"
            )
        return Precision((batches,), "batches")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Per row its statistics, with its age and one-sided p value, by age and for all ages."""
        items = model.items[["id", "condition", "step", "row", "position", "scored"]]
        items = items[items["scored"].astype(bool) & (items["step"] < model.step)]
        marked = items["condition"] == "watermark"
        pairs = items[marked].merge(items[~marked], on=["step", "row"], suffixes=("", "_free"))
        pairs = pairs[~model.masked(pairs["position"].to_numpy())]
        pairs = pairs.assign(age=model.step - pairs["step"], item=pairs["id"])
        parts = [
            self._score(model, pairs.iloc[first : first + _AT_ONCE])
            for first in range(0, len(pairs), _AT_ONCE)
        ]
        columns = ["item", "condition", "outcome", "value", "group", "age", "p"]
        if not parts:
            return pd.DataFrame(columns=columns)
        scores = pd.concat(parts, ignore_index=True)
        place = np.searchsorted(self.ages, scores["age"])
        by_age = scores.assign(condition=np.array(self._conditions)[place])
        return pd.concat([by_age, scores.assign(condition=_ALL)], ignore_index=True)[columns]

    def _score(self, model: Scorer, pairs: pd.DataFrame) -> pd.DataFrame:
        """Return the values of some pairs of a row with a watermark and one without."""
        own, free = pairs["position"].to_numpy(), pairs["position_free"].to_numpy()
        noise = model.noise(own)
        of_own = _gradients(model, own)
        values = {
            STATISTIC: watermark_statistic(of_own, noise),
            FRESH: watermark_statistic(of_own, model.noise(own, fresh=1)),
            UNMARKED: watermark_statistic(_gradients(model, free), noise),
        }
        known = pairs[["item", "age"]].assign(group=pairs["step"].astype(str))
        tables = [
            known.assign(outcome=name, value=x, p=scipy.stats.norm.sf(x))
            for name, x in values.items()
        ]
        for name, x in ((DETECTED, values[STATISTIC]), (FALSE_ALARM, values[FRESH])):
            tables.append(known.assign(outcome=name, value=(x > CRITICAL).astype(float), p=np.nan))
        return pd.concat(tables, ignore_index=True)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        """Add to the paired means what follows from the mean or the spread of all rows' x."""
        found = super().estimates(run, control)
        values = [table[table["outcome"] == STATISTIC] for table in (run, control)]
        pairs = values[0].merge(
            values[1][["item", "condition", "value"]],
            on=["item", "condition"],
            suffixes=("", "_control"),
        )
        means = [each for each in found if each.outcome == STATISTIC]
        for mean in means:
            rows = pairs[pairs["condition"] == mean.condition]
            x_Nx2, group = rows[["value", "value_control"]].to_numpy(float), rows["group"]
            for outcome in DERIVED:
                sign = self.sign(outcome)
                found.append(derived_estimate(outcome, mean, x_Nx2, group.to_numpy(), sign))
        return found

    def disclose(self, world: World) -> Iterator[str]:
        """Yield the size of the noise and the steps of the batches that have it."""
        unit = " times the RMS of the embedding matrix" if self.relative else ""
        steps = ", ".join(map(str, self.watermarked(world.geometry)))
        yield (
            f"noise of standard deviation {self.sigma:g}{unit} on the input embeddings of every "
            f"row of the batches of steps {steps}; the noise of row r of step k is that of seed "
            f"{world.seed} and position k * {world.geometry.batch} + r (ttoaa.planning.noise)"
        )

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the statistic and its nulls by age, and the rate of detection on a second axis.

        The pale bars are one standard deviation of the statistics of single rows.
        """
        final = estimates[estimates["step"] == estimates["step"].max()]
        names = [name for name in self._conditions if (final["condition"] == name).any()]
        place = {name: number for number, name in enumerate(names)}
        lines = [
            (STATISTIC, "value", "C0", "watermarked rows"),
            (STATISTIC, "control_value", "C7", "control run"),
            (FRESH, "value", "C1", "fresh noise"),
            (UNMARKED, "value", "C2", "rows without watermark"),
        ]
        rates = axes.twinx()
        rates.grid(visible=False)  # it would cross the lines of the first axis
        for number, (outcome, column, color, label) in enumerate(lines):
            rows = final[final["outcome"] == outcome]
            at = rows["condition"].map(place) + (number - 1.5) * 0.12
            axes.plot(at, rows[column], "o", color=color, label=label)
            if column == "value":
                axes.vlines(at, rows["ci_low"], rows["ci_high"], color=color)
        x, spread = (
            final[final["outcome"] == name].set_index(["seed", "condition"])["value"]
            for name in (STATISTIC, SPREAD)
        )
        at = x.index.get_level_values("condition").map(place) - 0.18
        spread = spread[x.index]
        axes.vlines(at, x - spread, x + spread, color="C0", alpha=0.2, linewidth=5)
        for outcome, style, label in (
            (DETECTED, "^", "detected, counted"),
            (CLOSED_FORM, "_", "detected, closed form"),
        ):
            rows = final[final["outcome"] == outcome]
            rates.plot(rows["condition"].map(place) + 0.3, rows["value"], style, color="C3",
                       label=label)  # fmt: skip
        axes.axhline(0, color="gray", linestyle="--")
        rates.axhline(FALSE_POSITIVES, color="C3", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(names)), map(self.labels.condition, names))
        axes.set_xlabel("age of the watermark")
        axes.set_ylabel("mean statistic x")
        rates.set_ylabel("share of rows detected")
        handles = [*axes.get_legend_handles_labels()[0], *rates.get_legend_handles_labels()[0]]
        axes.legend(handles=handles)


def _gradients(model: Scorer, positions: np.ndarray) -> list[np.ndarray]:
    """Return for each row float32[L, D]: the gradient of its log-likelihood."""
    return model.embedding_gradients([(tokens, 1) for tokens in model.rows(positions)])
