"""The seconds of a study by stage, and what each experiment added."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import pandas as pd

from ttoaa.planning.plan import Plan
from ttoaa.reporting.insertions import filled_slots, insertions
from ttoaa.runs import REFERENCE
from ttoaa.training.run_records import LEDGER, read_ledger
from ttoaa.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Stage:
    """Seconds of one stage, over all seeds."""

    name: str
    seconds: float
    scoring: bool = False
    """Whether the stage is part of `evaluate`."""


def stages(root: pathlib.Path, seeds: Sequence[int], report: float) -> list[Stage]:
    """Return the seconds of every stage in order, by its ledgers; `report` are those of the report.

    Training is listed by run, scoring by experiment, with generation on its own.
    """
    folders = [Workdir(root, seed) for seed in seeds]
    runs = dict.fromkeys(name for folder in folders for name in folder.runs())
    training = {name: phases(folder.run(name) for folder in folders) for name in runs}
    evaluation = phases(folder.tables for folder in folders)
    return [
        Stage("prepare", sum(_seconds(Workdir(root).corpus).values())),
        *reference_stages(root, folders),
        Stage("plan", sum(phases(folder.plan for folder in folders).values())),
        *(Stage(f"train {name}", sum(phases.values())) for name, phases in training.items()),
        *(Stage(_scoring_name(phase), s, scoring=True) for phase, s in evaluation.items()),
        Stage("report", report),
    ]


def reference_stages(root: pathlib.Path, folders: Sequence[Workdir]) -> list[Stage]:
    """Return the stages of a reference model that the study trained or asked."""
    trained = sum(_seconds(Workdir(root).run(REFERENCE)).values())
    chosen = sum(phases(folder.choices("").parent for folder in folders).values())
    found = [Stage("train reference", trained), Stage("choose", chosen)]
    return [stage for stage in found if stage.seconds]


def _scoring_name(phase: str) -> str:
    """Name a phase of evaluate: 'restore', 'score/NAME' or 'generate/NAME'."""
    kind, _, experiment = phase.partition("/")
    of = {"score": experiment, "generate": f"{experiment}: generation"}
    return f"evaluate {of.get(kind, phase)}"


def added(root: pathlib.Path, seeds: Sequence[int], experiments: Sequence[str]) -> pd.DataFrame:
    """Return what each experiment added: `insertions`, and seconds of probes and scoring.

    Insertions are those of the first seed, seconds are sums over seeds.
    """
    folders = [Workdir(root, seed) for seed in seeds]
    plan = Plan(folders[0].plan)
    filled = filled_slots(folders[0], plan)
    rows = []
    for name in experiments:
        inserted = insertions(plan, filled, name)
        rows.append(
            {
                "experiment": name,
                **inserted,
                "share": inserted["tokens"] / plan.geometry.tokens,
                "probe_seconds": sum(
                    _seconds(f.run(k)).get(f"probe/{name}", 0.0) for f in folders for k in f.runs()
                ),
                "score_seconds": sum(
                    _seconds(f.tables).get(f"{phase}/{name}", 0.0)
                    for f in folders
                    for phase in ("score", "generate")
                ),
            }
        )
    return pd.DataFrame(rows)


def missing_ledgers(root: pathlib.Path, seeds: Sequence[int]) -> list[str]:
    """Return a sentence for each missing or incomplete ledger."""
    owners = {"The corpus": Workdir(root).corpus}
    if (reference := Workdir(root).run(REFERENCE)).exists():
        owners["The reference model"] = reference
    for folder in (Workdir(root, seed) for seed in seeds):
        parts = {**{name: folder.run(name) for name in folder.runs()}, "plan": folder.plan}
        parts["evaluation"] = folder.tables
        owners |= {f"Seed {folder.seed}: the {name}": path for name, path in parts.items()}
    found = []
    for owner, path in owners.items():
        ledger = read_ledger(path)
        if not ledger or ledger.get("incomplete"):
            what = "a ledger with seconds missing" if ledger else "no ledger yet"
            place = f"{path.name}/{LEDGER}"
            found.append(f"{owner} has {what} ({place}), so the cost is incomplete.")
    return found


def phases(folders: Iterable[pathlib.Path]) -> dict[str, float]:
    """Return the seconds of several ledgers together, by phase."""
    total: dict[str, float] = {}
    for folder in folders:
        for phase, seconds in _seconds(folder).items():
            total[phase] = total.get(phase, 0.0) + seconds
    return total


def _seconds(folder: pathlib.Path) -> dict[str, float]:
    return read_ledger(folder).get("seconds", {})
