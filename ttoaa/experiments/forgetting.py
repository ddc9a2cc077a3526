"""Forgetting curves: the loss on a batch after training on it once (paper, E.8)."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.config_fields import (
    Above,
    AtLeast,
    AtMost,
    Below,
    Count,
    Distinct,
    Increasing,
    NotEmpty,
    PositiveInt,
    config_class,
)
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, Probe, Scorer, World
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.experiments.report_labels import Label, ReportLabels
from ttoaa.planning.burst_size import BurstSize
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Uniform, WholeBatch
from ttoaa.statistics.bootstrap import (
    Estimate,
    bootstrap,
    count_groups,
    paired_estimate,
    paired_estimates,
)
from ttoaa.statistics.power import Precision

CROSS_ENTROPY = "cross_entropy"
TWIN = "cross_entropy_twin"
ABOVE = "cross_entropy_above_twin"
PEAK_LAG, HALF_LIFE = "peak_lag", "half_life"
_ALL, _EARLY = "all", "/early"

_TWIN = "-twin"


@gin.configurable
@config_class
class Forgetting(Experiment):
    """Replace whole batches with unseen text and measure their loss before and after the update.

    A probe at step s + k has lag k to the batch of step s: lag 0 is just before the update, lag 1
    right after it. Each batch has a *twin*: text of other documents on which no run trains, probed
    at the same steps. Outcomes are the loss on the batches ('cross_entropy'), on the twins
    ('cross_entropy_twin'), and the first less the second ('cross_entropy_above_twin'). The gain is
    how much lower the last one is than in the control run, so that it does not include what other
    experiments do to all text. Intervals are over batches, since the rows of one share its update.
    The placebo is the gain at lag 0, before the batch was seen.

    Conditions 'lag-<k>/early' are of the first half of the batches, which reach larger lags.
    'peak_lag' is the lag of the largest mean gain, and 'half_life' the lag at which it has fallen
    to half of that, both of the lags that all batches reach ('all') or the early ones ('early').
    """

    at: Annotated[Sequence[Annotated[float, AtLeast(0), Below(1)]], NotEmpty(), Distinct()] = (
        0.3,
        0.5,
        0.7,
    )
    """Fractions of training at which a batch is replaced."""
    dense_lags: Annotated[Sequence[Count], NotEmpty(), Increasing()] = (0, 1, 2, 4, 8, 16, 24, 32)
    sparse_ratio: Annotated[float, Above(1), AtMost(1e6)] = 1.5
    """Ratio of consecutive lags after the dense ones, up to the end of training."""
    probe_rows: PositiveInt | None = None
    """Probed rows of each batch and of its twin; None: all."""

    prior = PriorFinding(
        work="Chang et al. 2024",
        finding="The loss on a batch falls after its update, and most of the gain is soon lost.",
        effect="0.2 nats some 20 steps later, 80 to 90% of it gone after 3,000 steps",
        source="arXiv 2509.23383, figures 19, 20",
    )
    labels = ReportLabels(
        question="For how long does the model remember a batch that it was trained on once?",
        method="Whole batches are replaced by text that nothing else contains. Probes measure the "
        "loss on each batch, and on a twin of other text that no run trains on, before the update "
        "and at growing lags after it.",
        caption="How much lower the loss on a batch is than in the control run, after that of its "
        "twin is subtracted, by steps since just before the update; 95% intervals over batches.",
        outcomes={
            CROSS_ENTROPY: Label("loss on the batches", "nats per token"),
            TWIN: Label("loss on their twins, which no run trains on", "nats per token"),
            ABOVE: Label("loss on the batches above their twins", "nats per token"),
            PEAK_LAG: Label("lag of the largest gain", "steps"),
            HALF_LIFE: Label(
                "lag at which half of the largest gain is lost",
                "steps",
                help="missing if it is not reached",
            ),
        },
        conditions={
            r"lag-(\d+)": r"after \1 steps",
            r"lag-(\d+)/early": r"after \1 steps, early batches",
            "end": "at the largest lag of all batches",
            _ALL: "all batches",
            "early": "early batches",
        },
        curves=(rf"({CROSS_ENTROPY}|{TWIN}|{ABOVE})/lag-.*",),
    )
    signs: ClassVar[Mapping[str, int]] = {
        **dict.fromkeys((CROSS_ENTROPY, TWIN, ABOVE), -1),
        **dict.fromkeys((PEAK_LAG, HALF_LIFE), 1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        lags = list(self.dense_lags)
        if lags[-1] < 1:
            raise ValueError(f"{self.name}: dense_lags must end with a lag above 0, not {lags}")
        condition = self.primary.partition("/")[2]
        known = [f"lag-{lag}" for lag in lags] + ["end"]
        if condition not in known or not self.primary.startswith(CROSS_ENTROPY):
            raise ValueError(f"{self.name}: the primary's condition must be among {known}")

    @property
    def placebo(self) -> str:
        return f"{ABOVE}/lag-0" if 0 in self.dense_lags else ""

    def _steps(self, geometry: Geometry) -> dict[str, int]:
        """Return the step of each replaced batch by probe name, validated."""
        steps = {f"at-{fraction:g}": round(fraction * geometry.steps) for fraction in self.at}
        if len(set(steps.values())) < len(self.at) or max(steps.values()) >= geometry.steps:
            raise ValueError(
                f"{self.name}: at={list(self.at)} of {geometry.steps} steps gives the steps "
                f"{list(steps.values())}: they must be different and before the end"
            )
        common = geometry.steps - max(steps.values())
        condition = self.primary.partition("/")[2]
        if condition != "end" and int(condition.removeprefix("lag-")) > common:
            raise ValueError(
                f"{self.name}: the primary {self.primary} is never measured: the last batch is "
                f"replaced {common} steps before the end; lower `at` or the lag"
            )
        return steps

    def _rows(self, geometry: Geometry) -> int:
        return min(self.probe_rows or geometry.batch, geometry.batch)

    def _lags(self, until: int, common: int) -> list[int]:
        """Return the lags at which to probe a batch; `common` is the largest that all reach."""
        lags = list(self.dense_lags)
        while lags[-1] < until:
            lags.append(math.ceil(lags[-1] * self.sparse_ratio))
        return sorted({lag for lag in lags if lag <= until} | {common, until})

    def reserve_windows(self, geometry: Geometry) -> list[int]:
        return [geometry.batch, self._rows(geometry)] * len(self._steps(geometry))

    def _groups(self, world: World) -> Iterator[tuple[str, int, bool, slice]]:
        """Yield the name, step and windows of each batch and of its twin, and whether it is one."""
        sizes, start = iter(self.reserve_windows(world.geometry)), 0
        for name, step in self._steps(world.geometry).items():
            for twin in (False, True):
                windows = slice(start, start + next(sizes))
                yield name + _TWIN * twin, step, twin, windows
                start = windows.stop

    def probes(self, world: World) -> Sequence[Probe]:
        total, rows = world.geometry.steps, self._rows(world.geometry)
        common = total - max(self._steps(world.geometry).values())
        return [
            Probe(
                name=name,
                tokens_NxL=world.reserve_NxL[windows][:rows],
                steps=[step + lag for lag in self._lags(total - step, common)],
            )
            for name, step, _, windows in self._groups(world)
        ]

    def intervene(self, world: World) -> Iterator[Item]:
        common = world.geometry.steps - max(self._steps(world.geometry).values())
        for name, step, twin, windows in self._groups(world):
            for row, window in enumerate(world.windows[windows].tolist()):
                yield Item(
                    id=f"{name}-{row}",
                    condition=name,
                    repetitions=0 if twin else 1,
                    window=window,
                    placement=Uniform() if twin else WholeBatch(steps=(step,), row=row),
                    fields={"step": step, "row": row, "end": common},
                )

    def burst(self, size: BurstSize) -> "Forgetting":
        """Return one batch, so long before the end that the primary's lag is the last one."""
        steps, lag = size.geometry.steps, self.primary.partition("/")[2].removeprefix("lag-")
        last = steps // 2 if lag == "end" else int(lag)
        lags = [each for each in self.dense_lags if each <= last]
        if not lags or not 0 < lags[-1] <= last < steps:
            raise ValueError(
                f"{self.name}: the primary {self.primary} is not measured in a burst of {steps} "
                "steps: use longer ones"
            )
        return dataclasses.replace(self, at=((steps - last) / steps,), dense_lags=lags)

    def precision(self, geometry: Geometry) -> Precision:
        return Precision((len(self._steps(geometry)),), "batches")

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Per row: its loss (nats a token) at every lag so far, as conditions 'lag-<k>'.

        The condition 'end' repeats the largest lag that all batches reach.
        """
        items = model.items.rename(columns={"id": "item", "step": "replaced"})
        items = items[["item", "condition", "replaced", "row", "end"]]
        batch = items["condition"].str.removesuffix(_TWIN)
        outcome = np.where(batch == items["condition"], CROSS_ENTROPY, TWIN)
        items = items.assign(group=batch, outcome=outcome)
        probes = model.probes[model.probes["step"] <= model.step]
        table = probes.rename(columns={"probe": "condition", "loss": "value"}).merge(
            items, on=["condition", "row"]
        )
        lag = table["step"] - table["replaced"]
        table = table.assign(condition="lag-" + lag.astype(str), lag=lag)
        end = table[lag == table["end"]].assign(condition="end")
        table = pd.concat([table.sort_values("lag", kind="stable"), end], ignore_index=True)
        return table[["item", "condition", "outcome", "value", "group"]]

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        found = paired_estimates(run, control, self.sign)
        above, in_control = _above_twins(run), _above_twins(control)
        if above.empty:
            return found
        for condition, run_B in above.iterrows():
            run_B = run_B.dropna()
            control_B = in_control.loc[condition, run_B.index]
            pair = run_B.to_numpy(), control_B.to_numpy()
            found.append(paired_estimate(ABOVE, str(condition), *pair, self.sign(ABOVE)))
        found += self._curve(above, in_control, "")
        if len(above.columns) > 1:
            early = above.columns[: -(-len(above.columns) // 2)]
            found += self._curve(above[early], in_control[early], _EARLY)
        return found

    def _curve(
        self, above: pd.DataFrame, in_control: pd.DataFrame, suffix: str
    ) -> Iterator[Estimate]:
        """Yield the shape of the mean curve of these batches; of early ones, its gains as well."""
        above = above[above.notna().all(axis=1) & (above.index != "end")]
        lags_K = above.index.str.removeprefix("lag-").astype(int).to_numpy()
        if lags_K[-1:].sum() < 1:
            return
        control = in_control.loc[above.index, above.columns]
        gains = [
            paired_estimate(ABOVE, f"{name}{suffix}", ours, theirs, self.sign(ABOVE))
            for name, ours, theirs in zip(
                above.index, above.to_numpy(), control.to_numpy(), strict=True
            )
        ]
        if suffix:
            yield from gains
        gain_BxK = self.sign(ABOVE) * (above - control).to_numpy().T
        at_peak = gains[int(gain_BxK.mean(0).argmax())]
        yield from describe_curve(
            lags_K, gain_BxK, suffix.strip("/") or _ALL, at_peak.difference_ci_low > 0
        )

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the gain with its interval against the lag, two lines for each seed.

        Each line is of the same batches at all of its lags: all batches, and dashed the early ones.
        """
        final = estimates[estimates["step"] == estimates["step"].max()]
        final = final[(final["outcome"] == ABOVE) & final["condition"].str.startswith("lag-")]
        lag = final["condition"].str.extract(r"lag-(\d+)", expand=False).astype(int)
        final = final.assign(lag=lag, early=final["condition"].str.endswith(_EARLY))
        for number, (seed, of_seed) in enumerate(final.groupby("seed", sort=False)):
            for early, rows in of_seed.groupby("early"):
                batches = rows["n"].max()
                rows = rows[rows["n"] == batches].sort_values("lag")
                color, style = f"C{number}", ".--" if early else ".-"
                label = f"seed {seed}, {'first ' if early else ''}{batches} batches"
                axes.plot(rows["lag"], rows["difference"], style, color=color, label=label)
                low, high = rows["difference_ci_low"], rows["difference_ci_high"]
                shade = 0.1 if early else 0.2
                axes.fill_between(rows["lag"], low, high, color=color, alpha=shade, linewidth=0)
        axes.axhline(0, color="gray", linestyle="--", label="control run")
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(left=-0.1)
        axes.set_xlabel("lag (steps since just before the update)")
        axes.set_ylabel("gain (nats per token)")
        axes.legend()


def describe_curve(
    lags_K: np.ndarray, gain_BxK: np.ndarray, condition: str, clear: bool
) -> Iterator[Estimate]:
    """Yield the lag of the peak and the half-life of the mean gain of B batches at K lags.

    The half-life is the first lag after the peak at which the gain is half of that at the peak,
    interpolated linearly. It is censored, nan, if the gain does not fall as far within these lags;
    so is its upper bound, if that happens in the tail of the resamples, and both if the gain at the
    peak is not `clear` of zero: noise has a peak and a half-life, too. Intervals resample batches.
    The control run has no curve to compare with, since the gain is relative to it.
    """
    n, none = len(gain_BxK), math.nan

    def statistic(counts_RxB: np.ndarray) -> np.ndarray:
        return _shape(lags_K, counts_RxB @ gain_BxK / counts_RxB.sum(1, keepdims=True))

    value, low, high = bootstrap([n], statistic, "forgetting curve", condition)
    groups = count_groups([n], None)
    bounds = np.clip((low, high), lags_K[0], lags_K[-1])
    peak = float(value[0]), float(bounds[0, 0]), float(bounds[1, 0])
    half = (none, none, none)
    if clear and value[2]:
        beyond = not low[2] >= 1
        half = float(value[1]), float(bounds[0, 1]), none if beyond else float(bounds[1, 1])
    for outcome, three in ((PEAK_LAG, peak), (HALF_LIFE, half)):
        yield Estimate(outcome, condition, n, *three, none, none, none, none, groups)


def _shape(lags_K: np.ndarray, curve_RxK: np.ndarray) -> np.ndarray:
    """Return [R, 3]: lag of the peak, half-life (the last lag if censored), whether it is seen."""
    R, K = curve_RxK.shape
    each = np.arange(R)
    peak_R = curve_RxK.argmax(1)
    half_R = curve_RxK[each, peak_R] / 2
    below_RxK = (np.arange(K) > peak_R[:, None]) & (curve_RxK <= half_R[:, None])
    seen_R = below_RxK.any(1) & (half_R > 0)
    after_R = np.maximum(below_RxK.argmax(1), 1)
    above_R, under_R = curve_RxK[each, after_R - 1], curve_RxK[each, after_R]
    with np.errstate(divide="ignore", invalid="ignore"):
        share_R = (above_R - half_R) / (above_R - under_R)
        lag_R = lags_K[after_R - 1] + share_R * (lags_K[after_R] - lags_K[after_R - 1])
    half_life_R = np.where(seen_R, lag_R, lags_K[-1])
    return np.stack([lags_K[peak_R], half_life_R, seen_R], 1).astype(float)


def _above_twins(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss of each batch less that of its twin: conditions by batches.

    Rows are in the order of lags, columns in that of training; nan where a batch has no such lag.
    """
    keys = ["condition", "group"]
    batch, twin = (
        table[table["outcome"] == outcome].groupby(keys, sort=False)["value"].mean()
        for outcome in (CROSS_ENTROPY, TWIN)
    )
    above = (batch - twin[batch.index]).unstack("group")
    order = sorted(above.columns, key=lambda name: float(name.removeprefix("at-")))
    return above.reindex(index=pd.unique(batch.index.get_level_values(0)), columns=order)
