"""Other studies next to this one: the primary outcomes that they share, such as by model size."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ttoaa.experiments.base import Experiment
from ttoaa.json_io import read_json
from ttoaa.report_stamp import check_summary
from ttoaa.reporting.findings import Interval, format_amount, primary_title
from ttoaa.reporting.number_formats import format_interval, format_quantity
from ttoaa.reporting.result_rows import Chart, make_chart
from ttoaa.training.run_records import read_ledger
from ttoaa.workdir import Workdir


class _Finding(TypedDict):
    experiment: str
    primary: str
    difference: float | None
    over_runs: list[float] | None
    over_items: list[float] | None
    decided_over: str
    runs: int
    verdict: str


class _Findings(TypedDict):
    experiments: list[_Finding]


@dataclasses.dataclass(frozen=True)
class SharedOutcome:
    """The primary outcome of one experiment in several studies, as texts."""

    experiment: str
    title: str
    unit: str
    rows: list[dict[str, str]]
    """study, difference, interval, runs and verdict."""
    chart: Chart | None


def compare_primaries(
    root: pathlib.Path,
    found: Sequence[Mapping[str, Any]],
    experiments: Sequence[Experiment],
    others: Sequence[pathlib.Path],
) -> list[SharedOutcome]:
    """Return the primary outcomes of this study that at least one other study has as well.

    `found` are the rows of replication.json of this study, and those of `others` are read. Raises
    ValueError for a folder without a report, or whose summary.json is damaged.
    """
    studies = {_title(root): list(found)} if others else {}
    for folder in others:
        check_summary(folder)
        value = read_json(Workdir(folder).replication, _Findings, "run ttoaa report there again")
        title = _title(folder)
        if title in studies:  # a folder of the same name elsewhere
            title = f"{title} ({folder})"
        studies[title] = value["experiments"]
    shared = []
    for experiment in experiments:
        place = experiment.name, experiment.primary
        rows = [
            (study, row)
            for study, own in studies.items()
            for row in own
            if (row["experiment"], row["primary"]) == place
        ]
        if len(rows) > 1:
            shared.append(_shared(experiment, rows))
    return shared


def _title(folder: pathlib.Path) -> str:
    """Return the name of a study's folder, with the parameters of its run if they are known."""
    name = folder.resolve().name
    parameters = read_ledger(Workdir(folder).run("run")).get("parameters")
    return f"{name}, {format_quantity(parameters)}" if parameters else name


def _shared(experiment: Experiment, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> SharedOutcome:
    label, title = primary_title(experiment)
    lines: list[tuple[str, float | None, Interval | None]] = []
    texts = []
    for study, row in rows:
        interval = row[f"over_{row['decided_over']}"]
        lines.append((study, row["difference"], interval))
        low, high = (bound * label.scale for bound in interval) if interval else (None, None)
        width = interval[1] - interval[0] if interval else None
        missing = row["difference"] is None
        texts.append(
            {
                "study": study,
                "difference": "–" if missing else format_amount(row["difference"], label, width),
                "interval": f"{format_interval(low, high)} over {row['decided_over']}",
                "runs": str(row["runs"]),
                "verdict": row["verdict"],
            }
        )
    chart = make_chart(lines, label)
    return SharedOutcome(experiment.name, title, label.unit_of_differences, texts, chart)
