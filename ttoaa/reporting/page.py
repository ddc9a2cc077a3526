"""The HTML page of a study: collect what its folder contains and fill the template."""

import dataclasses
import functools
import inspect
import pathlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import jinja2
import pandas as pd

from ttoaa import parquet_io
from ttoaa.author_errors import blame
from ttoaa.checksums import KEY, read_record, write_record
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import added_later
from ttoaa.planning.plan import Plan
from ttoaa.report_stamp import format_stamp, tables_digests
from ttoaa.reporting import figures, replication
from ttoaa.reporting.alone import compare_alone
from ttoaa.reporting.cost import added, missing_ledgers, stages
from ttoaa.reporting.estimates import StudyEstimates, collect, described, summary
from ttoaa.reporting.findings import NO_RUN_NOISE, VERDICTS, format_p
from ttoaa.reporting.insertions import Filled, filled_slots
from ttoaa.reporting.number_formats import (
    format_duration,
    format_interval,
    format_number,
    format_quantity,
)
from ttoaa.reporting.other_studies import compare_primaries
from ttoaa.reporting.placebos import count_placebos
from ttoaa.reporting.result_rows import Chart, chart_of, present_row, select_rows
from ttoaa.reporting.run_comparison import compare_runs
from ttoaa.reporting.savings import describe_cost, measure_cost
from ttoaa.reporting.svg import Picture, draw
from ttoaa.statistics.run_equivalence import RunComparison
from ttoaa.training.run_records import read_ledger, read_provenance
from ttoaa.workdir import Workdir, write_json, write_text

_EXAMPLES = 6
_EXAMPLE_CHARACTERS = 400
_FILTERS = 24
"""Conditions of an experiment up to which its numbers can be filtered by condition."""


@dataclasses.dataclass(frozen=True)
class ExperimentSection:
    """One experiment on the page, in the words of its labels."""

    name: str
    kind: str
    question: str
    method: str
    definition: list[str]
    """The paragraphs of the class's docstring."""
    finding: dict[str, Any]
    """Its row of replication.json."""
    chart: Chart | None
    rises: bool
    figure: Picture
    arms: Picture | None
    primary: dict[str, Any]
    """Its primary outcome over all seeds (see `result_rows`)."""
    primary_by_seed: list[dict[str, Any]]
    others: list[tuple[str, list[dict[str, Any]]]]
    """Its other outcomes, by title."""
    runs: list[dict[str, Any]]
    """The primary outcome in further runs, relative to the control run."""
    examples: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Dependence:
    """A dependence matrix of the study: do experiments influence each other?"""

    title: str
    verdicts: str
    """Its verdicts in a sentence."""
    picture: Picture


def write(
    root: pathlib.Path,
    name: str,
    experiments: Sequence[Experiment],
    without: Sequence[pathlib.Path] = (),
    rule: RunComparison | None = None,
    dependence: Sequence[Dependence] = (),
    others: Sequence[pathlib.Path] = (),
    registered: Sequence[str] = (),
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write summary.json, report.html and what lies next to them; return these two paths.

    The others are cost.json, replication.json, replication.md and run_comparison.json, in which
    runs are compared with the control run by `rule`. The page shows the matrices `dependence`, and
    the primary outcomes that the reported studies in the folders `others` share.
    `registered` are sentences about the preregistration (`reporting.preregistration.compare`).

    The same folder gives the same files: the seconds of a report are measured when the first one
    is made from these tables, and recorded. Tables in `without` are left out, and the page says
    so. Raises ValueError where outcomes are missing.
    """
    begin, tables = time.perf_counter(), tables_digests(root)
    estimates = collect(root, experiments, set(without))
    if without:
        notes = (*estimates.notes, f"{described(without)}.")
        estimates = dataclasses.replace(estimates, notes=notes)
    rows, folder = summary(estimates), Workdir(root)
    contents = collect_contents(root, name, experiments, estimates, rows)
    compared = compare_runs(
        root,
        figures.losses(root, estimates.seeds),
        experiments,
        rule or RunComparison(),
        estimates.final_step,
        without,
    )
    shared = compare_primaries(root, contents["replication"]["experiments"], experiments, others)
    seconds = _report_seconds(folder, tables, begin)
    html = _template().render(
        contents,
        stages=stages(root, estimates.seeds, seconds),
        compared=compared,
        dependence=dependence,
        shared=shared,
        verdicts=VERDICTS,
        no_run_noise=NO_RUN_NOISE,
        filters=_FILTERS,
        registered=registered,
    )
    write_json(folder.summary, rows)
    write_json(folder.summary.with_name("cost.json"), contents["price"])
    write_json(folder.replication, contents["replication"])
    table = replication.markdown_table(contents["replication"])
    write_text(folder.replication.with_suffix(".md"), table)
    comparison = [row for each in compared for row in each.rows]
    write_json(folder.summary.with_name("run_comparison.json"), comparison)
    stamp = format_stamp(tables, folder.summary.read_bytes())
    write_text(folder.report, html.replace("</title>\n", f"</title>\n{stamp}\n", 1))
    return folder.summary, folder.report


class _ReportLedger(TypedDict):
    seconds: float
    made_from: dict[str, str]


def _report_seconds(folder: Workdir, tables: dict[str, str], begin: float) -> float:
    """Return the recorded seconds of a report of these tables, else record those since `begin`."""
    path = folder.report_ledger
    if path.exists():
        record = read_record(path, _ReportLedger, "remove it and report again")
        if record["made_from"] == tables:
            return record["seconds"]
    seconds = time.perf_counter() - begin
    write_record(path, {"seconds": seconds, "made_from": tables})
    return seconds


def collect_contents(
    root: pathlib.Path,
    name: str,
    experiments: Sequence[Experiment],
    estimates: StudyEstimates,
    rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the variables of the template; `rows` are those of summary.json."""
    seeds = estimates.seeds
    plan = Plan(Workdir(root, seeds[0]).plan)
    losses = figures.losses(root, seeds)
    arms = figures.arm_losses(root, seeds)
    missing, names = missing_ledgers(root, seeds), [e.name for e in experiments]
    additions = added(root, seeds, names)
    cost = measure_cost(root, seeds, names)
    ended = estimates.final_step == plan.geometry.steps
    slots = {
        (each.experiment, each.item): each for each in filled_slots(Workdir(root, seeds[0]), plan)
    }
    found = replication.replication_table(
        experiments, rows, compare_alone(root, experiments, estimates)
    )
    sections = [
        _section(root, each, estimates, rows, finding, arms, slots)
        for each, finding in zip(experiments, found["experiments"], strict=True)
    ]
    return dict(
        name=name,
        seeds=seeds,
        final_step=estimates.final_step,
        notes=[
            *estimates.notes,
            *_later(plan, experiments),
            *_untrained(root, seeds, losses),
            *missing,
        ],
        parameters=read_ledger(Workdir(root, seeds[0]).run("run")).get("parameters"),
        geometry=plan.geometry,
        sections=sections,
        ended=ended,
        sham=any(row["sham_difference"] is not None for row in rows),
        over_runs=any(row["run_ci_low"] is not None for row in rows),
        placebos=count_placebos(rows, experiments),
        replication=found,
        pictures=figures.draw_losses(losses),
        runs=[
            _run(folder, name, losses)
            for folder in (Workdir(root, seed) for seed in seeds)
            for name in folder.runs()
        ],
        added=additions.to_dict("records"),
        slots=bool(slots),
        complete=not missing,
        cost=cost,
        price=describe_cost(cost, losses, additions["share"].sum(), missing),
        provenance=list(_flat(_provenance(Workdir(root, seeds[0])))),
        config=_config(Workdir(root)),
        tables=[Workdir(root, seed).tables.name for seed in seeds],
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "duration": format_duration,
        "quantity": format_quantity,
        "p_value": format_p,
    }
    environment.globals |= {"interval": format_interval}
    return environment.get_template("page.html")


def define(kind: type) -> list[str]:
    """Return the paragraphs of a class's docstring; only items of lists begin a new line."""
    return [
        re.sub(r"\n(?! *- ) *", " ", part) for part in (inspect.getdoc(kind) or "").split("\n\n")
    ]


def _section(
    root: pathlib.Path,
    experiment: Experiment,
    estimates: StudyEstimates,
    rows: Sequence[dict[str, Any]],
    finding: dict[str, Any],
    arms: pd.DataFrame,
    slots: Mapping[tuple[str, str], Filled],
) -> ExperimentSection:
    name, labels = experiment.name, experiment.labels
    mine = [row for row in rows if row["experiment"] == name]
    primary = [present_row(row, experiment) for row in mine if row["primary"]]
    table = estimates.table[estimates.table["experiment"] == name]
    others = estimates.others[estimates.others["experiment"] == name]
    with blame(f"figure of {name}"):
        figure = draw(
            functools.partial(experiment.figure, table),
            f"figure-{name}",
            f"{labels.caption} {finding['finding']}".strip(),
            labels.caption,
        )
    return ExperimentSection(
        name=name,
        kind=type(experiment).__name__,
        question=labels.question,
        method=labels.method,
        definition=define(type(experiment)),
        finding=finding,
        chart=chart_of(finding, experiment),
        rises=experiment.expected_sign > 0,
        figure=figure,
        arms=figures.draw_arms(arms, experiment),
        primary=primary[-1],
        primary_by_seed=primary[:-1],
        others=select_rows(mine, experiment),
        runs=[
            present_row(_one_run(row), experiment) | {"run": row["run"]}
            for row in others[others["primary"].astype(bool)].to_dict("records")
        ],
        examples=_examples(Workdir(root, estimates.seeds[0]), experiment, slots),
    )


def _one_run(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the estimate of one run in the form of a row of summary.json."""
    found = {key: None if pd.isna(value) else value for key, value in row.items()}
    absent = dict.fromkeys(("run_ci_low", "run_ci_high", "sham_difference", "detectable"))
    return {**found, **absent, "runs": 1, "groups": found["groups"] or found["n"]}


def _run(folder: Workdir, kind: str, losses: pd.DataFrame) -> dict[str, Any]:
    """Last losses, speed and ledger of one run."""
    mine = losses[(losses["kind"] == kind) & (losses["seed"] == folder.seed)]
    record = read_ledger(folder.run(kind))
    validation = mine["validation_loss"].dropna()
    return {
        "seed": folder.seed,
        "kind": kind,
        "steps": int(mine["step"].max()) if len(mine) else 0,
        "loss": mine["loss"].dropna().tail(20).mean(),
        "validation_loss": validation.iloc[-1] if len(validation) else None,
        "tokens_per_second": mine["tokens_per_second"].median(),
        "seconds": sum(record.get("seconds", {}).values()),
        "flops": record.get("flops"),
        "devices": f"{record.get('devices', '–')} × {record.get('device_kind', '–')}",
    }


def _later(plan: Plan, experiments: Sequence[Experiment]) -> list[str]:
    return [
        f"{name} was added to the study after its plan: its outcome was not declared beforehand."
        for name in added_later(plan, experiments)
    ]


def _untrained(root: pathlib.Path, seeds: Sequence[int], losses: pd.DataFrame) -> list[str]:
    """List insertions that did not change the weights: masked rows and skipped updates."""
    found = []
    for seed in seeds:
        warnings = Plan(Workdir(root, seed).plan).meta.get("warnings", [])
        found += [f"Seed {seed}, plan: {line}." for line in warnings]
        for kind in Workdir(root, seed).runs():
            mine = losses[(losses["kind"] == kind) & (losses["seed"] == seed)]
            if skipped := int(mine["skipped"].max() if mine["skipped"].notna().any() else 0):
                found.append(
                    f"Seed {seed}: the {kind} skipped the updates of {skipped:,} steps: "
                    "it did not train on their batches, including insertions."
                )
    return found


def _examples(
    folder: Workdir, experiment: Experiment, slots: Mapping[tuple[str, str], Filled]
) -> list[dict[str, Any]]:
    """The first item of every condition, with its text truncated, and `slots` if it has any."""
    columns = ["id", "condition", "repetitions", "text"]
    path = folder.plan / "items" / f"{experiment.name}.parquet"
    if not path.exists():  # an experiment that was added later
        return []
    items = (
        parquet_io.read_parquet(path, columns)
        .to_pandas()
        .drop_duplicates("condition")
        .head(_EXAMPLES)
    )
    cut = items["text"].str.slice(0, _EXAMPLE_CHARACTERS)
    items["text"] = cut.where(cut == items["text"], cut + " …")
    return [
        {
            **item,
            "condition": experiment.labels.condition(str(item["condition"])),
            "slots": slots.get((experiment.name, str(item["id"]))),
        }
        for item in items.to_dict("records")
    ]


def _provenance(folder: Workdir) -> dict[str, Any]:
    found = read_provenance(folder.run("run"))
    return {k: v for k, v in found.items() if k not in ("config", KEY)}


def _config(folder: Workdir) -> str:
    return folder.config.read_text(encoding="utf-8") if folder.config.exists() else ""


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, str(value)
