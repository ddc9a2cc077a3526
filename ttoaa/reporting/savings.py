"""Seconds and validation loss of the pooled study, against separate studies of one experiment each.

Both sides make the same probes and outcomes of the same runs. Every part takes `fixed + each · N`
seconds, by which the seconds of this study are extrapolated to other numbers of experiments.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ttoaa.reporting.cost import phases, reference_stages
from ttoaa.runs import CONTROL, RUN, checks_pooling
from ttoaa.training.run_records import read_ledger
from ttoaa.workdir import Workdir

EXTRAPOLATED = (1, 3, 10, 30, 100)
"""Numbers of experiments for which the report states the saving."""


class Linear(NamedTuple):
    """Seconds as a function of the number of experiments."""

    fixed: float
    each: float


class Part(NamedTuple):
    """Seconds of one part of the work, summed over seeds; before the run FLOPs (`ttoaa.price`)."""

    name: str
    note: str
    pooled: Linear
    """In the pooled study."""
    shared: Linear
    """In separate studies that share all runs but the experiment run."""
    own: Linear
    """In separate studies that share no runs."""


class AloneRun(NamedTuple):
    """Training seconds of a finished run `alone/NAME`, and those assumed without it."""

    experiment: str
    seed: int
    seconds: float
    assumed: float
    """The seconds of the experiment run of the same seed; neither includes probes."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """All parts of the pooled study of `experiments` experiments, and of as many separate ones."""

    experiments: int
    parts: tuple[Part, ...]
    alone: tuple[AloneRun, ...]
    checks: float
    """Seconds of training and scoring `alone/…` and `without/…` runs, which no side includes."""

    def seconds(self, side: str, experiments: int | None = None, only: str = "") -> float:
        """Return the seconds of "pooled", "shared" or "own", of all parts or of one.

        Another number of experiments than that of the study extrapolates.
        """
        n = self.experiments if experiments is None else experiments
        sums = [getattr(part, side) for part in self.parts if only in ("", part.name)]
        return sum(line.fixed + n * line.each for line in sums)

    def net_saving(self, side: str = "shared", experiments: int | None = None) -> float:
        """Return the saving in all seconds; it is valid only if no ledger is missing."""
        return 1 - self.seconds("pooled", experiments) / (self.seconds(side, experiments) or 1)

    def gross_saving(self, experiments: int | None = None) -> float:
        """Return the saving in experiment runs alone: 1 - 1/N, if separate runs take as long."""
        pooled, shared = (self.seconds(s, experiments, _EXPERIMENT_RUN) for s in SIDES[:2])
        return 1 - pooled / (shared or 1)

    @property
    def alone_ratios(self) -> list[float]:
        """The seconds of each `alone/…` run relative to those assumed."""
        return [run.seconds / run.assumed for run in self.alone if run.assumed]


SIDES = ("pooled", "shared", "own")
_EXPERIMENT_RUN = "experiment run"


def measure_cost(root: pathlib.Path, seeds: Sequence[int], experiments: Sequence[str]) -> Cost:
    """Sum the ledgers of all seeds; they do not include work that was lost by a kill."""
    folders, n = [Workdir(root, seed) for seed in seeds], len(experiments)
    names = dict.fromkeys(name for folder in folders for name in folder.runs())
    training = {name: phases(folder.run(name) for folder in folders) for name in names}
    pooled = {k: p for k, p in training.items() if not checks_pooling(k)}
    others = {name: _unprobed(p) for name, p in pooled.items() if name != RUN}
    probes = sum(sum(p.values()) - _unprobed(p) for p in pooled.values())
    reference = sum(stage.seconds for stage in reference_stages(root, folders))
    plan = sum(phases(folder.plan for folder in folders).values())
    scoring, checks = (sum(s) for s in zip(*map(_scoring, folders), strict=True))
    run, alone = _unprobed(training[RUN]), _alone_runs(folders, experiments)
    separate = n * run + sum(each.seconds - each.assumed for each in alone)

    once = {"corpus": sum(phases([Workdir(root).corpus]).values()), "reference model": reference}
    measured = f"{len(alone)} of {n * len(folders)} measured" if alone else "assumed"
    each = (
        ("plan", "in proportion to N", plan),
        ("probes", "the same probes, wherever they run", probes),
        ("evaluation", "the same outcomes, wherever they are scored", scoring),
    )
    parts = (
        *made_once(once),
        *training_parts(others, run, separate / n, measured),
        *(Part(name, note, *[Linear(0.0, s / n)] * 3) for name, note, s in each),
    )
    subsets = sum(sum(p.values()) for name, p in training.items() if name not in pooled)
    return Cost(n, parts, tuple(alone), subsets + checks)


def made_once(parts: Mapping[str, float]) -> Iterator[Part]:
    """Yield the parts that every side needs once, by name; those of 0 are left out."""
    yield from (Part(name, "made once", *[Linear(s, 0.0)] * 3) for name, s in parts.items() if s)


def training_parts(
    others: Mapping[str, float], run: float, separate: float, note: str
) -> Iterator[Part]:
    """Yield the parts of training: the runs other than the experiment run, by name, and that one.

    `separate` is the mean of the runs of one experiment, and `note` says where it is from.
    """
    for name, s in others.items():
        yield Part(f"{name} run", "once, or × N", Linear(s, 0.0), Linear(s, 0.0), Linear(0.0, s))
    one = Linear(0.0, separate)
    yield Part(_EXPERIMENT_RUN, f"× N, {note}", Linear(run, 0.0), one, one)


def _unprobed(seconds: Mapping[str, float]) -> float:
    """Sum the phases of a run other than probes, which belong to single experiments."""
    return sum(s for name, s in seconds.items() if name.split("/")[0] != "probe")


def _alone_runs(folders: Sequence[Workdir], experiments: Sequence[str]) -> list[AloneRun]:
    found = []
    for folder in folders:
        assumed = _unprobed(phases([folder.run(RUN)]))
        for name in experiments:
            ledger = read_ledger(folder.run(f"alone/{name}"))
            if ledger and not ledger.get("incomplete"):
                seconds = _unprobed(ledger["seconds"])
                found.append(AloneRun(name, folder.seed, seconds, assumed))
    return found


def _scoring(folder: Workdir) -> tuple[float, float]:
    """Return the seconds of scoring the pooled study's runs, and `alone/…` and `without/…` runs.

    The ledger has seconds by experiment, not by run: they are divided by the number of tables.
    """
    tables = [path.relative_to(folder.tables) for path in folder.tables.glob("**/*.parquet")]
    pooled = checks = 0.0
    for phase, seconds in phases([folder.tables]).items():
        name = phase.partition("/")[2]
        mine = [path for path in tables if name in ("", path.stem)]
        share = sum(checks_pooling(path.parts[0]) for path in mine) / max(len(mine), 1)
        pooled, checks = pooled + seconds * (1 - share), checks + seconds * share
    return pooled, checks


def validation_differences(losses: pd.DataFrame, experiments: int) -> dict[int, list[float]]:
    """Return last validation losses minus those of control, in nats, by number of experiments.

    `losses` are those of `figures.losses`. Runs of a subset of the experiments count, and no
    number without a run is in the result. What-if runs, and runs that ended earlier than others,
    are left out.
    """
    held = losses.dropna(subset=["validation_loss"])
    last = held[held["step"] == held["step"].max()]
    final = {(row.kind, row.seed): row.validation_loss for row in last.itertuples()}
    counts = {RUN: experiments, "alone": 1, "without": experiments - 1}
    found: dict[int, list[float]] = {}
    for (kind, seed), loss in final.items():
        count = None if "@" in kind else counts.get(kind.partition("/")[0])
        if count and (CONTROL, seed) in final:
            found.setdefault(count, []).append(float(loss - final[CONTROL, seed]))
    return found


def describe_cost(
    cost: Cost, losses: pd.DataFrame, edited: float, missing: Sequence[str]
) -> dict[str, Any]:
    """Return the contents of cost.json: parts, savings by number of experiments, `alone/…` runs.

    `edited` is the share of tokens that the study edits; that of other numbers is proportional.
    `missing` are the sentences of `missing_ledgers`.
    """
    n, differences = cost.experiments, validation_differences(losses, cost.experiments)
    savings = [
        {
            "experiments": k,
            "extrapolated": k != n,
            **{side: cost.seconds(side, k) for side in SIDES},
            "gross_saving": cost.gross_saving(k),
            "net_saving_shared": cost.net_saving("shared", k),
            "net_saving_own": cost.net_saving("own", k),
            "edited_share": edited * k / n,
            "validation_differences": differences.get(k, []),
        }
        for k in sorted({*EXTRAPOLATED, n, *differences})
    ]
    return {
        "experiments": n,
        "missing": list(missing),
        "parts": [
            {"name": part.name, "note": part.note}
            | {side: cost.seconds(side, only=part.name) for side in SIDES}
            for part in cost.parts
        ],
        "savings": savings,
        "alone": [run._asdict() for run in cost.alone],
        "checks": cost.checks,
    }
