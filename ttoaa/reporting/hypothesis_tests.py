"""Hypothesis tests of a study's outcomes, for `ttoaa report --tests`.

Which differences between run and control exceed chance, which are shown to be small, and how small
a difference could have been detected.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.experiments.base import Experiment
from ttoaa.json_io import read_json
from ttoaa.parquet_io import read_outcomes
from ttoaa.report_stamp import check_summary
from ttoaa.reporting.estimates import ALL_SEEDS, SummaryRow, collect
from ttoaa.statistics import equivalence
from ttoaa.statistics.bootstrap import FEWEST
from ttoaa.statistics.multiplicity import benjamini_hochberg, holm
from ttoaa.statistics.permutation import paired_max_z, two_sample_max_z
from ttoaa.statistics.power import paired_effect, two_sample_effect
from ttoaa.workdir import RUNS, Workdir, write_json

_KEYS = ["experiment", "outcome", "condition"]


def parse_margins(texts: Sequence[str]) -> dict[str, float]:
    """Read 'outcome=margin' pairs; ValueError for anything else."""
    try:
        pairs = [text.split("=") for text in texts]
        return {outcome: float(margin) for outcome, margin in pairs}
    except ValueError:
        given = ",".join(texts)
        raise ValueError(
            f"--margins must be outcome=margin,…, such as accuracy=0.05, not {given}"
        ) from None


def write(
    root: pathlib.Path,
    experiments: Sequence[Experiment],
    without: Set[pathlib.Path],
    margins: Mapping[str, float],
    against: pathlib.Path | None,
) -> pathlib.Path:
    """Write tests.json next to summary.json, and return its path.

    "items" has the tests of `compare_items` at the final step of every seed. "studies" has those of
    `compare_studies` against the study in the folder `against`, if there is one.
    """
    found = collect(root, experiments, without)
    items = [
        row
        for seed in found.seeds
        for row in _test_seed(Workdir(root, seed), found.final_step, experiments, margins)
    ]
    studies = []
    if against is not None:
        check_summary(against)
        summaries = [Workdir(folder).summary for folder in (root, against)]
        ours, theirs = (read_json(path, list[SummaryRow]) for path in summaries)
        studies = compare_studies(ours, theirs, margins)
    path = Workdir(root).summary.with_name("tests.json")
    write_json(path, {"items": _finite(items), "studies": _finite(studies)})
    return path


def _test_seed(
    folder: Workdir, step: int, experiments: Sequence[Experiment], margins: Mapping[str, float]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for experiment in experiments:
        control, run = (read_outcomes(folder.table(k, step, experiment.name)) for k in RUNS)
        where = {"experiment": experiment.name, "seed": folder.seed}
        rows += [where | row for row in compare_items(experiment, run, control, margins)]
    p_values = [row["p"] for row in rows]
    adjusted = zip(holm(p_values), benjamini_hochberg(p_values), strict=True)
    return [
        row | {"p_study": float(p), "q_study": float(q)}
        for row, (p, q) in zip(rows, adjusted, strict=True)
    ]


def compare_items(
    experiment: Experiment, run: pd.DataFrame, control: pd.DataFrame, margins: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Test the mean difference of each (outcome, condition) of at least `FEWEST` items.

    Outcomes without an expected sign, which only serve to derive others, are left out.
    Items are paired across the models; items of one group count as one item with their mean. `p` is
    of a two-sided permutation test of this outcome alone, `p_experiment` is family-wise over the
    outcomes of the experiment (largest |z|); `detectable` is the difference that a t test detects
    with power 0.8. With a margin for the outcome, `p_equivalence` tests whether the difference is
    smaller than the margin (TOST), and
    `low` and `high` are its 90% interval. Differences are oriented like those of the estimates.
    """
    run = run[run["outcome"].isin(list(experiment.signs))]
    run = run.assign(unit=run.get("group", run["item"]).fillna(run["item"]))
    both = run.merge(control, on=["item", "outcome", "condition"], suffixes=("", "_control"))
    tables = both.pivot_table(
        index="unit", columns=["outcome", "condition"], values=["value", "value_control"]
    )
    run_NxK, control_NxK = tables["value"], tables["value_control"]
    signs = [experiment.sign(outcome) for outcome, _ in run_NxK.columns]
    difference_NxK = (run_NxK - control_NxK) * signs
    difference_NxK = difference_NxK.loc[:, difference_NxK.count() >= FEWEST]
    if difference_NxK.empty:
        return []
    family = paired_max_z(difference_NxK.to_numpy(), experiment.name)
    rows = []
    for k, (outcome, condition) in enumerate(difference_NxK.columns):
        d_N = difference_NxK[outcome, condition].dropna().to_numpy()
        row = {
            "outcome": outcome,
            "condition": condition,
            "n": len(d_N),
            "difference": float(d_N.mean()),
            "z": float(family.z_K[k]),
            "p": float(paired_max_z(d_N[:, None], experiment.name, outcome, condition).p_K[0]),
            "p_experiment": float(family.p_K[k]),
            "detectable": paired_effect(float(d_N.std(ddof=1)), len(d_N)),
        }
        if outcome in margins:
            values = [t[outcome, condition].dropna().to_numpy() for t in (run_NxK, control_NxK)]
            if np.isin(values, (0, 1)).all():
                better, worse = values if experiment.sign(outcome) > 0 else values[::-1]
                tested = equivalence.binary_equivalence(better, worse, margins[outcome])
            else:
                tested = equivalence.paired_equivalence(d_N, margins[outcome])
            row |= _equivalence_columns(tested, margins[outcome])
        rows.append(row)
    return rows


def compare_studies(
    ours: Sequence[Mapping[str, Any]],
    theirs: Sequence[Mapping[str, Any]],
    margins: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Compare the estimates of two studies, with seeds as units; rows are of summary.json.

    For example an experiment next to others in one study, and alone in the other. `p` is
    family-wise over all estimates that both studies have (permuted labels, largest |z|); the other
    columns are those of `compare_items`. Raises ValueError for studies of fewer than two seeds.
    """
    a, b = (
        pd.DataFrame([row for row in rows if row["seed"] != ALL_SEEDS])
        .pivot(index="seed", columns=_KEYS, values="difference")
        .astype(float)
        .dropna(axis=1)
        for rows in (ours, theirs)
    )
    shared = a.columns.intersection(b.columns, sort=False)
    if min(len(a), len(b)) < 2 or shared.empty:
        raise ValueError(
            "comparing studies needs two seeds in each and an estimate in common, not "
            f"{len(a)} and {len(b)} seeds and {len(shared)} estimates"
        )
    tested = two_sample_max_z(a[shared].to_numpy(), b[shared].to_numpy(), "studies")
    rows = []
    for k, key in enumerate(shared):
        a_N, b_M = a[key].to_numpy(), b[key].to_numpy()
        pooled = (a_N.var(ddof=1) * (len(a_N) - 1) + b_M.var(ddof=1) * (len(b_M) - 1)) / (
            len(a_N) + len(b_M) - 2
        )
        row = {
            **dict(zip(_KEYS, key, strict=True)),
            "seeds": [len(a_N), len(b_M)],
            "difference": float(a_N.mean() - b_M.mean()),
            "z": float(tested.z_K[k]),
            "p": float(tested.p_K[k]),
            "detectable": two_sample_effect(math.sqrt(pooled), len(a_N), len(b_M)),
        }
        if margin := margins.get(key[1]):
            two = equivalence.two_sample_equivalence(a_N, b_M, margin)
            row |= _equivalence_columns(two, margin)
        rows.append(row)
    return rows


def _equivalence_columns(tested: equivalence.Equivalence, margin: float) -> dict[str, float]:
    return {"margin": margin, "p_equivalence": tested.p, "low": tested.low, "high": tested.high}


def _finite(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace nan and infinity, which JSON does not have, by None."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in rows
    ]
