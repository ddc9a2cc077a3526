"""The results of a study's folder as pandas frames, for notebooks and scripts.

  study = StudyFrames("runs/quickstart")
  study.estimates("canaries")     # differences from the control run, with intervals

Differences are those of a run less the control run, positive as the experiment expects, with the
bounds `low` and `high` of a 95% interval. `interval` says what it is over: `runs` for three seeds
or more, else `items` of these runs.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from ttoaa import bucket, config
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import outcome_fingerprints
from ttoaa.json_io import read_json
from ttoaa.parquet_io import read_outcomes
from ttoaa.planning.plan import Plan
from ttoaa.reporting import figures
from ttoaa.reporting.estimates import (
    FEWEST_RUNS,
    PLACEBO,
    StudyEstimates,
    estimate_run,
    stale_tables,
    summary,
)
from ttoaa.reporting.findings import ITEMS as OVER_ITEMS
from ttoaa.reporting.findings import RUNS as OVER_RUNS
from ttoaa.reporting.findings import describe_finding
from ttoaa.reporting.run_comparison import run_differences
from ttoaa.runs import CONTROL, RUN
from ttoaa.statistics.bootstrap import across_seeds, paired_estimate
from ttoaa.workdir import RUNS, Workdir

_KEYS = ["experiment", "step", "outcome", "condition"]
_PAIR = ["seed", "step", "item", "condition"]


class _Replication(TypedDict):
    experiments: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class StudyFrames:
    """One study, by its --workdir; each method reads what it needs. Nothing is written to it.

    Of a study in a bucket (gs://) a copy is read, which is updated once in a process.

    Errors are ValueError, in one line, for a folder without a finished study, an experiment or an
    outcome that the study does not have, and damaged files.
    """

    workdir: str | pathlib.Path

    @property
    def exists(self) -> bool:
        """Whether the folder holds a study with a report."""
        return Workdir(bucket.expand(str(self.workdir))).replication.exists()

    @functools.cached_property
    def root(self) -> pathlib.Path:
        if not self.exists:
            raise ValueError(
                f"{self.workdir} holds no finished study: name one, or make one with "
                f"ttoaa study --gin_file=quickstart.gin --workdir={self.workdir}"
            )
        return bucket.expand(str(self.workdir))

    @functools.cached_property
    def config(self) -> config.Study:
        return config.load([Workdir(self.root).config])[0]

    @functools.cached_property
    def experiments(self) -> dict[str, Experiment]:
        return {experiment.name: experiment for experiment in self.config.experiments}

    @functools.cached_property
    def folders(self) -> list[Workdir]:
        """The folder of each seed that has outcome tables."""
        seeds = (Workdir(self.root, seed) for seed in Workdir(self.root).seeds())
        return [folder for folder in seeds if folder.tables.exists()]

    @functools.cached_property
    def steps(self) -> list[int]:
        """The checkpoints of the run that were evaluated in every seed, ascending."""
        found = [
            {int(path.name) for path in (folder.tables / RUN).glob("*") if path.name.isdecimal()}
            for folder in self.folders
        ]
        return sorted(set.intersection(*found))

    @functools.cached_property
    def _left_out(self) -> set[pathlib.Path]:
        """The stale tables that the report leaves out too."""
        outcomes = outcome_fingerprints(self.config.experiments)
        return {
            path
            for folder in self.folders
            for path in stale_tables(folder, Plan(folder.plan).hash, outcomes)
        }

    def _has(self, folder: Workdir, run: str, step: int, experiment: str) -> bool:
        path = folder.table(run, step, experiment)
        return path.exists() and path not in self._left_out

    def experiment(self, name: str) -> Experiment:
        if name not in self.experiments:
            raise ValueError(f"{self.root} has no experiment {name!r}: {sorted(self.experiments)}")
        return self.experiments[name]

    @functools.cached_property
    def _findings(self) -> list[dict[str, Any]]:
        return read_json(Workdir(self.root).replication, _Replication)["experiments"]

    @property
    def findings(self) -> pd.DataFrame:
        """The finding of each experiment with its question and its verdict."""
        rows = [
            {
                "experiment": row["experiment"],
                "question": self.experiment(row["experiment"]).labels.question,
                "verdict": row["verdict"],
                "finding": describe_finding(self.experiment(row["experiment"]), row),
            }
            for row in self._findings
        ]
        return pd.DataFrame(rows)

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Every estimate of the last step: the rows of summary.json, with low, high, interval.

        A row per experiment, outcome, condition and seed; with several seeds also one of all, whose
        seed is 'all'.
        """
        rows = read_json(Workdir(self.root).summary, list[dict[str, Any]])
        return _with_interval(pd.DataFrame(rows))

    def estimates(self, *experiments: str) -> pd.DataFrame:
        """Return every estimate of every evaluated step, over all seeds.

        Of all experiments if none is named. The columns are those of `summary`, and step.
        """
        return _over_seeds(self.estimates_by_seed(*experiments))

    def estimates_by_seed(self, *experiments: str) -> pd.DataFrame:
        """Return the rows of `estimates`, and before each those of its seeds."""
        chosen = [self.experiment(name) for name in experiments or self.experiments]
        parts = [
            estimate_run(folder, step, experiment)
            for step in self.steps
            for experiment in chosen
            for folder in self.folders
            if all(self._has(folder, run, step, experiment.name) for run in RUNS)
        ]
        if not parts:
            raise ValueError(f"{self.root} has no outcomes of {', '.join(e.name for e in chosen)}")
        return _with_seeds(pd.concat(parts, ignore_index=True))

    def primaries(self) -> pd.DataFrame:
        """Return the primary outcome of each experiment at the last step, three rows each.

        `kind` is run, sham (unrelated text in the same places) or placebo (a difference that is
        zero by construction). Rows that do not exist are left out.
        """
        rows = []
        for row in self._findings:
            outcome, _, condition = row["primary"].partition("/")
            place = {"experiment": row["experiment"], "outcome": outcome, "condition": condition}
            ours = self.summary.query("primary and experiment == @place['experiment']")
            sham = ours.loc[ours["runs"] == 1, "sham_difference"].dropna().to_numpy(float)
            over_sham = across_seeds(sham)[1:] if len(sham) >= FEWEST_RUNS else None
            interval = row["over_runs"] or row["over_items"]
            kinds = (
                ("run", row["difference"], interval),
                ("sham", row["sham_difference"], over_sham),
                ("placebo", row["placebo"]["difference"], row["placebo"]["interval"]),
            )
            for kind, difference, bounds in kinds:
                low, high = bounds or (np.nan, np.nan)
                if difference is not None:
                    mine = {"kind": kind, "difference": difference, "low": low, "high": high}
                    rows.append({**place, **mine, "verdict": row["verdict"]})
        return pd.DataFrame(rows)

    def outcomes(self, experiment: str, runs: Sequence[str] = RUNS) -> pd.DataFrame:
        """Return the outcome of every item, as `Experiment.outcome` measured it.

        Columns seed, run, step, item, condition, outcome, value, and what the experiment adds.
        """
        parts = [
            read_outcomes(folder.table(run, step, experiment)).assign(
                seed=folder.seed, run=run, step=step
            )
            for folder in self.folders
            for run in runs
            for step in self.steps
            if self._has(folder, run, step, self.experiment(experiment).name)
        ]
        if not parts:
            raise ValueError(f"{self.root} has no outcomes of {experiment} in {', '.join(runs)}")
        table = pd.concat(parts, ignore_index=True)
        first = ["seed", "run", "step"]
        return table[first + [name for name in table if name not in first]]

    def items(self, experiment: str) -> pd.DataFrame:
        """Return the planned items of all seeds: id, condition, repetitions, text, their fields.

        `first_copy` and `last_copy` are steps, nan without a copy.
        """
        parts = []
        for folder in self.folders:
            plan = Plan(folder.plan)
            items, steps = plan.items(experiment), plan.copies(experiment).groupby("id")["step"]
            first, last = (items["id"].map(found) for found in (steps.min(), steps.max()))
            parts.append(items.assign(seed=folder.seed, first_copy=first, last_copy=last))
        return pd.concat(parts, ignore_index=True)

    def gains(self, experiment: str, outcome: str) -> pd.DataFrame:
        """Return the difference of each item, the run less the control run, positive as expected.

        Columns experiment, outcome, seed, step, item, condition, value, control_value, difference,
        sign (that of the expected difference), group if the items have groups; and, of items that
        the plan names alike, repetitions, first_copy, last_copy and text.
        """
        table = self.outcomes(experiment)
        table = table[table["outcome"] == outcome]
        if table.empty or outcome not in self.experiment(experiment).signs:
            raise ValueError(
                f"{experiment} has no outcome {outcome!r} of single items: it has "
                f"{self.item_outcomes(experiment)}"
            )
        sign = self.experiment(experiment).sign(outcome)
        run, control = (table[table["run"] == name].drop(columns="run") for name in (RUN, CONTROL))
        control = control[[*_PAIR, "value"]].rename(columns={"value": "control_value"})
        pairs = run.merge(control, on=_PAIR, validate="one_to_one")
        pairs["sign"], pairs["difference"] = sign, sign * (pairs["value"] - pairs["control_value"])
        items = self.items(experiment).rename(columns={"id": "item"})
        known = items[["seed", "item", "repetitions", "first_copy", "last_copy", "text"]]
        return pairs.assign(experiment=experiment).merge(known, on=["seed", "item"], how="left")

    def compare_groups(self, gains: pd.DataFrame, by: str) -> pd.DataFrame:
        """Return estimates of groups of items: those with the same value in column `by`.

        `gains` are rows of the method of that name, of one outcome, with any further column. The
        result is as that of `estimates`, with the group as the condition. Groups that were chosen
        by their results have no valid interval.
        """
        parts = []
        for (name, seed, step, value), rows in gains.groupby(["experiment", "seed", "step", by]):
            run, control = (rows[column].to_numpy(float) for column in ("value", "control_value"))
            groups = rows["group"].to_numpy() if "group" in rows and rows["group"].all() else None
            outcome = rows["outcome"].iloc[0]
            sign = self.experiment(name).sign(outcome)
            found = paired_estimate(outcome, str(value), run, control, sign, groups)
            where = {"experiment": name, "seed": seed, "step": step, "primary": False}
            parts.append({**dataclasses.asdict(found), **where, **dict.fromkeys(PLACEBO, np.nan)})
        return _over_seeds(_with_seeds(pd.DataFrame(parts)))

    def item_outcomes(self, experiment: str) -> list[str]:
        """List the outcomes of single items that `gains` can compare, graded ones first."""
        table = self.outcomes(experiment, [RUN])
        signed = table[table["outcome"].isin(self.experiment(experiment).signs)]
        binary = signed.groupby("outcome", sort=False)["value"].agg(lambda v: v.isin((0, 1)).all())
        return [*binary.index[~binary], *binary.index[binary]]

    def losses(self) -> pd.DataFrame:
        """Return the logged metrics of all runs: kind (the run), seed, step, loss and more."""
        return figures.losses(self.root, [folder.seed for folder in self.folders])

    @functools.cached_property
    def run_comparison(self) -> pd.DataFrame:
        """The rows of run_comparison.json: every run against the control run, late in training."""
        path = Workdir(self.root).summary.with_name("run_comparison.json")
        return pd.DataFrame(read_json(path, list[dict[str, Any]]))

    def run_differences(self) -> pd.DataFrame:
        """Return what every run logged, less the control run at the same step of the same seed.

        Columns quantity, run, seed, step, control, difference.
        """
        experiments = list(self.experiments.values())
        return run_differences(self.root, self.losses(), experiments, self.steps[-1])

    def arm_losses(self) -> pd.DataFrame:
        """Return the training loss of each experiment's texts, in bins of steps, over all seeds."""
        return figures.arm_losses(self.root, [folder.seed for folder in self.folders])


def by_repetitions(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose condition names a number of repetitions, such as 4x and plain-4x.

    Adds `repetitions`, by which the rows of each experiment are sorted, and `series`: the part of
    the condition before the number.
    """
    found = rows["condition"].str.extract(r"^(?:(?P<series>.+)-)?(?P<repetitions>\d+)x$")
    rows = rows.assign(series=found["series"].fillna(""), repetitions=found["repetitions"])
    rows = rows.dropna(subset=["repetitions"])
    rows = rows.assign(repetitions=rows["repetitions"].astype(int))
    first = pd.Series({name: place for place, name in enumerate(rows["experiment"].unique())})
    order = pd.DataFrame({"experiment": rows["experiment"].map(first), "n": rows["repetitions"]})
    return rows.loc[order.sort_values(["experiment", "n"], kind="stable").index]


def above_held_out(gains: pd.DataFrame) -> pd.DataFrame:
    """Return the gains less the mean gain of held-out items of the same seed, step and series.

    `gains` are rows of `by_repetitions`. What the model learned about all texts of this kind is
    thereby left out. Intervals over items do not include the error of the mean that is subtracted.
    Raises ValueError for a series without held-out items, that is with 0 repetitions.
    """
    keys = ["experiment", "outcome", "seed", "step", "series"]
    held_out = gains[gains["repetitions"] == 0].groupby(keys)["difference"].mean()
    general = held_out.reindex(pd.MultiIndex.from_frame(gains[keys])).to_numpy()
    if np.isnan(general).any():
        missing = gains["condition"][np.isnan(general)].iloc[0]
        raise ValueError(f"{missing} has no held-out items to compare with")
    return gains.assign(
        value=gains["value"] - gains["sign"] * general, difference=gains["difference"] - general
    )


def by_lag(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose condition names a lag, such as lag-8 and lag-8/early.

    Adds `lag`, in steps, and `series`: the part of the condition after the number. Only lags that
    all items of a series reach are kept: others would compare different items.
    """
    found = rows["condition"].str.extract(r"^lag-(?P<lag>\d+)(?:/(?P<series>.+))?$")
    rows = rows.assign(series=found["series"].fillna(""), lag=found["lag"]).dropna(subset=["lag"])
    rows = rows.assign(lag=rows["lag"].astype(int))
    whole = rows.groupby(["experiment", "outcome", "step", "series"])["n"].transform("max")
    return rows[rows["n"] == whole].sort_values("lag", kind="stable")


def by_period(gains: pd.DataFrame) -> pd.DataFrame:
    """Return the items whose copies all lie between two checkpoints, or before the first.

    Adds `period`: 'steps 101 to 200', in order.
    """
    steps = sorted(gains["step"].unique())
    bounds = [0, *steps]
    names = [f"steps {low + 1:,} to {high:,}" for low, high in itertools.pairwise(bounds)]
    first, last = (
        pd.cut(gains[column], bounds, right=False, labels=names)  # checkpoint 100 has steps 0 to 99
        for column in ("first_copy", "last_copy")
    )
    found = gains.assign(period=last)[(first == last) & last.notna()]
    if found.empty:
        raise ValueError("no item has all of its copies between two evaluated checkpoints")
    return found


def _with_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of estimates of single seeds as those of a summary, of every step."""
    none, seeds = table.iloc[:0].assign(run=""), tuple(table["seed"].unique())
    rows = [
        {**row, "step": step}
        for step in sorted(table["step"].unique())
        for row in summary(StudyEstimates(table, none, step, seeds, ()))
    ]
    return _with_interval(pd.DataFrame(rows).drop(columns="sham_difference"))


def _with_interval(rows: pd.DataFrame) -> pd.DataFrame:
    over_runs = rows["run_ci_low"].notna()
    bounds = {
        name: rows[f"run_ci_{name}"].where(over_runs, rows[f"difference_ci_{name}"]).astype(float)
        for name in ("low", "high")
    }
    return rows.assign(**bounds, interval=np.where(over_runs, OVER_RUNS, OVER_ITEMS))


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each estimate: that of all seeds, or of the only one."""
    return rows.groupby(_KEYS, sort=False).tail(1).reset_index(drop=True)
