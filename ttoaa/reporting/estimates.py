"""Estimates of every step and seed from outcome tables, and the rows of summary.json.

Only tables of the current plan, and of the outcomes as they are defined now, are reported.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from ttoaa.author_errors import blame
from ttoaa.experiments.base import Experiment
from ttoaa.parquet_io import outcome_source, read_outcomes
from ttoaa.runs import CONTROL, RUN, SHAM
from ttoaa.statistics.bootstrap import Estimate, across_seeds
from ttoaa.statistics.power import interval_effect
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.workdir import RUNS, Workdir


def stale_tables(folder: Workdir, plan: str, outcomes: Mapping[str, str]) -> list[pathlib.Path]:
    """Return stale tables that cannot be made again because their checkpoints are gone.

    `plan` is the plan's hash, `outcomes` are the outcome fingerprints by experiment. Raises
    ValueError for a stale table whose checkpoint exists.
    """
    found = []
    for kind in folder.runs():
        there = committed_steps(folder.run(kind) / "checkpoints")
        for path in sorted((folder.tables / kind).glob("*/*.parquet")):
            if path.stem not in outcomes or not path.parent.name.isdecimal():
                continue
            source = outcome_source(path) or {}
            if source.get("plan") != plan:
                of = "of another plan"
            elif source.get("outcome") != outcomes[path.stem]:
                of = "of an earlier version of that outcome"
            else:
                continue
            if int(path.parent.name) in there:
                raise ValueError(f"{path} is {of}: run python -m ttoaa.evaluate again")
            found.append(path)
    return found


def described(paths: Sequence[pathlib.Path]) -> str:
    """Return one line on the tables that are left out."""
    steps: dict[str, set[int]] = {}
    for path in paths:
        steps.setdefault(path.stem, set()).add(int(path.parent.name))
    listed = (f"{name} at step {', '.join(map(str, sorted(at)))}" for name, at in steps.items())
    return (
        "tables left out, because they are of another plan or of an earlier version of their "
        f"outcome and their checkpoints are gone: {'; '.join(listed)}"
    )


ALL_SEEDS = "all"
FEWEST_RUNS = 3
"""Minimum number of seeds for an interval over runs."""
PLACEBO = ("placebo", "placebo_ci_low", "placebo_ci_high")
_OUTCOME_COLUMNS = {"item", "condition", "outcome", "value"}
_KEYS = ["experiment", "outcome", "condition"]
_SUMMARY = (
    *("experiment", "outcome", "condition", "primary", "seed", "n", "value", "ci_low", "ci_high"),
    *("control_value", "difference", "difference_ci_low", "difference_ci_high"),
    *("groups", "run_ci_low", "run_ci_high", "runs", "sham_difference"),
    *(*PLACEBO, "detectable"),
)


class SummaryRow(TypedDict):
    """The columns of a row of summary.json that other code reads."""

    experiment: str
    outcome: str
    condition: str
    seed: int | str
    difference: float | None


@dataclasses.dataclass(frozen=True)
class StudyEstimates:
    """The estimates of a study.

    `table` has a row for each estimate of the run against the control run: experiment, seed, step,
    primary, the columns of `Estimate` and, in rows of primary outcomes, `PLACEBO`: the difference
    of the experiment's placebo with its interval. `others` has the same for every other run of the
    study against the control run at the final step, with the run's name in `run`. `notes` lists
    everything that was left out.
    """

    table: pd.DataFrame
    others: pd.DataFrame
    final_step: int
    seeds: tuple[int, ...]
    notes: tuple[str, ...]


def collect(
    root: pathlib.Path,
    experiments: Sequence[Experiment],
    without: Set[pathlib.Path] = frozenset(),
) -> StudyEstimates:
    """Estimate all evaluated checkpoints of all seeds in the study's folder.

    Tables in `without` count as missing: the final step is the last one without any of them.

    Raises ValueError if a table of the run or control run is missing at the final step. At earlier
    steps a table without its counterpart is left out, as is a seed that is still training while
    another one is done; the notes name both.
    """
    if not experiments:
        raise ValueError("the study has no experiments to report: set Study.experiments")
    folders = [Workdir(root, seed) for seed in Workdir(root).seeds()]
    steps = {folder: _steps(folder) for folder in folders}
    evaluated = [folder for folder in folders if steps[folder]]
    if not evaluated:
        raise ValueError(f"{root} has no outcome tables yet: run python -m ttoaa.evaluate first")
    every = {(folder, step) for folder in evaluated for step in steps[folder]}
    left = {
        step
        for folder, step in every
        if any(not without.isdisjoint(_tables(folder, step, each)) for each in experiments)
    }
    whole = {step for _, step in every} - left
    if not whole:
        raise ValueError(f"{root}: every step has a stale table: train it again")
    final_step = max(whole)
    notes = [f"Seed {f.seed} has no outcomes yet." for f in folders if f not in evaluated]
    training = [f for f in evaluated if _in_training(f, final_step, experiments)]
    if len(training) < len(evaluated):
        evaluated = [f for f in evaluated if f not in training]
        notes += [f"Seed {f.seed} is left out, as it is still in training." for f in training]
    if any(steps[folder][-1] > final_step for folder in evaluated):
        notes.append(f"Steps after {final_step} are left out, as not all of their outcomes count.")
    frames = []
    for folder in evaluated:
        earlier = [step for step in steps[folder] if step < final_step]
        for step in (*earlier, final_step):
            for experiment in experiments:
                if not without.isdisjoint(_tables(folder, step, experiment)):
                    continue
                missing = _missing(folder, step, experiment)
                if missing and step == final_step:
                    raise ValueError(
                        f"seed {folder.seed}: the {missing} has no outcomes of "
                        f"{experiment.name!r} at step {step}: "
                        f"run python -m ttoaa.evaluate --workdir={root} --seed={folder.seed}"
                    )
                if missing:
                    notes.append(
                        f"Seed {folder.seed}, step {step}: {experiment.name} is left out, as the "
                        f"{missing} was not evaluated there."
                    )
                else:
                    frames.append(estimate_run(folder, step, experiment))
    # An outcome may be empty at an early step, and an empty frame has no types.
    table = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    others = [*_others(evaluated, final_step, experiments, without)]
    shown = {(int(frame["seed"].iloc[0]), frame["run"].iloc[0]) for frame in others if len(frame)}
    notes += [
        f"Seed {f.seed}: the run {name} is left out, as it has no outcomes at step {final_step}."
        for f in evaluated
        for name in f.runs()[len(RUNS) :]
        if (f.seed, name) not in shown
    ]
    _require_declared(table[table["step"] == final_step], experiments)
    return StudyEstimates(
        table,
        pd.concat(others, ignore_index=True) if others else table.iloc[:0].assign(run=""),
        final_step,
        tuple(f.seed for f in evaluated),
        tuple(notes),
    )


def summary(estimates: StudyEstimates) -> list[dict[str, Any]]:
    """Return the rows of summary.json: every estimate of the final step, by seed.

    With two seeds or more, a row with seed 'all' follows: means over seeds with two kinds of
    intervals. `ci_*` and `difference_ci_*` are over items, given these runs. `run_ci_*` is the t
    interval of the difference with the seed as the unit, for three seeds or more. `runs` counts the
    seeds, and n the items of all seeds. `placebo` is the experiment's placebo, in rows of its
    primary outcome. `detectable` is the difference that would be detected with power 0.8, by the
    interval over runs if there is one. Values that are not finite are None.
    """
    final = estimates.table[estimates.table["step"] == estimates.final_step]
    sham = estimates.others[estimates.others["run"] == SHAM].set_index([*_KEYS, "seed"])
    shown = sham["difference"].reindex(pd.MultiIndex.from_frame(final[[*_KEYS, "seed"]]))
    final = final.assign(
        sham_difference=shown.to_numpy(),
        groups=final["groups"].fillna(final["n"]).astype(int),
        run_ci_low=math.nan,
        run_ci_high=math.nan,
        runs=1,
    )
    rows = []
    for _, group in final.groupby(_KEYS, sort=False):
        rows.extend(group.to_dict("records"))
        if len(group) > 1:
            rows.append(_over_seeds(group))
    rows = [row | {"detectable": _detectable(row)} for row in rows]
    return [{column: plain(row[column]) for column in _SUMMARY} for row in rows]


def _over_seeds(group: pd.DataFrame) -> dict[str, Any]:
    """Return the row of one estimate over all seeds."""
    row = group.iloc[0].to_dict() | {"seed": ALL_SEEDS, "runs": len(group)}
    row |= {name: int(group[name].sum()) for name in ("n", "groups")}
    row["control_value"] = float(group["control_value"].mean())
    row["sham_difference"] = float(group["sham_difference"].mean(skipna=False))  # of all, or null
    for name in ("value", "difference", "placebo"):
        prefix = "" if name == "value" else f"{name}_"
        row[name] = mean = float(group[name].mean())
        for bound, side in (("ci_low", -1), ("ci_high", 1)):
            # Seeds have separate items or runs, so their variances add.
            reach = group[f"{prefix}{bound}"] - group[name]
            size = float(np.sqrt(np.sum(reach**2))) if reach.notna().all() else math.nan
            row[f"{prefix}{bound}"] = mean + side * size / len(group)
    if len(group) >= FEWEST_RUNS:
        _, row["run_ci_low"], row["run_ci_high"] = across_seeds(group["difference"].to_numpy())
    return row


def _detectable(row: Mapping[str, Any]) -> float:
    if row["runs"] >= FEWEST_RUNS:
        return interval_effect(row["run_ci_low"], row["run_ci_high"], row["runs"] - 1)
    low, high = row["difference_ci_low"], row["difference_ci_high"]
    if not math.isfinite(high - low):
        return math.nan
    return interval_effect(low, high, row["groups"] - row["runs"])


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: NumPy scalars as Python's, None for what is not finite."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _steps(folder: Workdir) -> list[int]:
    return sorted(int(p.name) for p in (folder.tables / "run").glob("*") if p.name.isdecimal())


def _tables(folder: Workdir, step: int, experiment: Experiment) -> list[pathlib.Path]:
    return [folder.table(kind, step, experiment.name) for kind in RUNS]


def _in_training(folder: Workdir, step: int, experiments: Sequence[Experiment]) -> bool:
    """Whether outcomes at `step` are missing because a run has not finished."""
    missing = {_missing(folder, step, experiment) for experiment in experiments} - {""}
    return any(not (folder.run(kind) / "finished.json").exists() for kind in missing)


def _missing(folder: Workdir, step: int, experiment: Experiment) -> str:
    """Name the missing one of the two tables; empty if both exist."""
    return next((k for k in RUNS if not folder.table(k, step, experiment.name).exists()), "")


def _others(
    folders: Sequence[Workdir],
    step: int,
    experiments: Sequence[Experiment],
    without: Set[pathlib.Path],
) -> Iterator[pd.DataFrame]:
    """Yield the estimates of runs other than the standard ones, if their tables exist."""
    for folder in folders:
        for name in folder.runs()[len(RUNS) :]:
            for experiment in experiments:
                paths = [folder.table(run, step, experiment.name) for run in (name, CONTROL)]
                if all(path.exists() for path in paths) and without.isdisjoint(paths):
                    yield estimate_run(folder, step, experiment, name).assign(run=name)


def estimate_run(
    folder: Workdir, step: int, experiment: Experiment, name: str = RUN, against: str = CONTROL
) -> pd.DataFrame:
    """Return the estimates of a run against the control run or another one, one row each."""
    run, control = (_read(folder.table(k, step, experiment.name)) for k in (name, against))
    columns = [field.name for field in dataclasses.fields(Estimate)]
    of = "" if name == RUN else f" of {name}"
    with blame(f"{experiment.name}, seed {folder.seed}, step {step}{of}"):
        estimates = experiment.estimates(run, control)
        rows = pd.DataFrame([dataclasses.asdict(e) for e in estimates], columns=columns)
    names = rows["outcome"] + "/" + rows["condition"]
    where = {"experiment": experiment.name, "seed": folder.seed, "step": step}
    rows = rows.assign(**where, primary=names == experiment.primary)
    placebo = rows[names == experiment.placebo]
    for name in PLACEBO:
        value = placebo[name.replace("placebo", "difference")].mean()  # of one row, or of none
        rows[name] = np.where(rows["primary"], value, math.nan)
    return rows


def _read(path: pathlib.Path) -> pd.DataFrame:
    table = read_outcomes(path)
    absent = sorted(_OUTCOME_COLUMNS - set(table.columns))
    if absent:
        raise ValueError(f"{path} has no columns {absent}")
    return table


def _require_declared(final: pd.DataFrame, experiments: Sequence[Experiment]) -> None:
    for experiment in experiments:
        rows = final[final["experiment"] == experiment.name]
        have = sorted(set(rows["outcome"] + "/" + rows["condition"]))
        for what in ("primary", "placebo"):
            declared = getattr(experiment, what)
            if declared not in have and (declared or what == "primary"):
                raise ValueError(
                    f"{experiment.name}: its {what} outcome {declared!r} is not among its "
                    f"estimates {have}"
                )
