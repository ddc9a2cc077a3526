"""Tables of a study, of all groups or one, as Parquet and CSV for any tool (docs/export.md)."""

import json
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ttoaa import __version__
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import outcome_fingerprints
from ttoaa.interop.plan_export import export_plan
from ttoaa.json_io import read_json
from ttoaa.parquet_io import read_outcomes, read_parquet
from ttoaa.reporting.estimates import described, stale_tables
from ttoaa.runs import SUBSETS
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir, write_json


def experiments_of(experiments: Sequence[Experiment], group: str | None) -> list[Experiment]:
    """Return the experiments of a group, or all; ValueError for a group that there is not."""
    chosen = [e for e in experiments if group is None or e.group == group]
    if group is not None and not (group and chosen):
        known = sorted({e.group for e in experiments} - {""})
        has = f"the study has {', '.join(known)}" if known else "no experiment has a group"
        raise ValueError(f"no experiment has the group {group!r}: {has} (set Experiment.group)")
    return chosen


def export_tables(
    handles: Sequence[StudyHandle], folder: pathlib.Path, group: str | None, *, csv: bool
) -> list[str]:
    """Write the tables of all seeds, one handle each, into a folder; return what was missing.

    With a `group`, no file holds an item, a name or a number of another group's experiments. Tables
    that a report leaves out are left out. Raises ValueError for a damaged or stale table.
    """
    study, root = handles[0].config, handles[0].workdir.root
    chosen = experiments_of(study.experiments, group)
    names = {e.name: e.group for e in chosen}
    fingerprints, stale = outcome_fingerprints(chosen), list[pathlib.Path]()
    for handle in handles:
        stale += stale_tables(handle.workdir, handle.plan.hash, fingerprints)
    missing = [described(stale)] if stale else []
    for experiment in chosen:
        name = experiment.name
        outcomes = [*_outcomes(handles, name, names, set(stale))]
        if outcomes:
            _write(folder / "outcomes" / name, pd.concat(outcomes, ignore_index=True), csv)
        else:
            missing.append(f"{name} has no outcome table: run ttoaa evaluate")
        if items := [*_items(handles, name)]:
            _write(folder / "items" / name, pa.concat_tables(items), csv)
    summary = Workdir(root).summary
    if summary.exists():
        rows = [
            row for row in read_json(summary, list[dict[str, Any]]) if row["experiment"] in names
        ]
        rows = [
            {"group": names[row["experiment"]], **row, "seed": str(row["seed"])} for row in rows
        ]
        _write(folder / "estimates", pd.DataFrame(rows), csv)
    else:
        missing.append("there are no estimates: run ttoaa report")
    for handle in handles:
        there = folder / f"plan-s{handle.workdir.seed}"
        there.mkdir()
        export_plan(handle, there, names, whole=group is None)
    chosen_rows = [
        {"name": e.name, "group": e.group, "primary": e.primary, "expected_sign": e.expected_sign}
        for e in chosen
    ]
    about = {"study": study.name, "ttoaa": __version__, "group": group, "experiments": chosen_rows}
    write_json(folder / "export.json", about)
    return missing


def _outcomes(
    handles: Sequence[StudyHandle],
    name: str,
    names: Collection[str],
    without: Collection[pathlib.Path],
) -> Iterator[pd.DataFrame]:
    """Yield the outcome tables of an experiment in every seed, run and step, but those `without`.

    `names` are the experiments whose names may be seen.
    """
    for handle in handles:
        workdir = handle.workdir
        for run in workdir.runs():
            kind, _, one = run.partition("@")[0].partition("/")
            if kind in SUBSETS and one not in names:
                continue  # its name would reveal an experiment of another group
            for path in sorted((workdir.tables / run).glob(f"*/{name}.parquet")):
                if path in without:
                    continue
                table = read_outcomes(path)
                keys = {"seed": workdir.seed, "run": run, "step": int(path.parent.name)}
                for place, (key, value) in enumerate({**keys, "experiment": name}.items()):
                    table.insert(place, key, value)
                yield table


def _items(handles: Sequence[StudyHandle], name: str) -> Iterator[pa.Table]:
    """Yield the item tables of an experiment, one for each seed whose plan has it."""
    for handle in handles:
        path = handle.plan.folder / "items" / f"{name}.parquet"
        if path.exists():
            table = read_parquet(path)
            yield table.add_column(0, "seed", pa.array([handle.workdir.seed] * len(table)))


def _write(path: pathlib.Path, table: "pa.Table | pd.DataFrame", csv: bool) -> None:
    """Write path.parquet, and with `csv` path.csv, in which lists are JSON."""
    path.parent.mkdir(exist_ok=True)
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(table, path.with_name(f"{path.name}.parquet"))
    if csv:
        columns = {name: _flat(table[name]) for name in table.column_names}
        pyarrow.csv.write_csv(pa.table(columns), path.with_name(f"{path.name}.csv"))


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Return a column that CSV can hold."""
    if not pa.types.is_nested(column.type):
        return column
    return pa.array([None if v is None else json.dumps(v) for v in column.to_pylist()], pa.string())
