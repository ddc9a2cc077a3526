"""The seconds of a study by stage, and relative to one training run per experiment."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ttoaa.planning.plan import Plan
from ttoaa.reporting.insertions import filled_slots, insertions
from ttoaa.runs import REFERENCE
from ttoaa.training.run_records import LEDGER, read_ledger
from ttoaa.workdir import RUNS, Workdir


@dataclasses.dataclass(frozen=True)
class Part:
    """Seconds of one part of the work, in this study and in N separate studies."""

    name: str
    pooled: float
    separate: float
    note: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """All parts, assuming that a separate run takes as many seconds of steps as the pooled run."""

    experiments: int
    parts: tuple[Part, ...]

    @property
    def pooled(self) -> float:
        return sum(part.pooled for part in self.parts)

    @property
    def separate(self) -> float:
        return sum(part.separate for part in self.parts)

    @property
    def gross_saving(self) -> float:
        """The saving in training steps of the runs alone: 1 - 1/N."""
        return 1 - 1 / self.experiments

    @property
    def net_saving(self) -> float:
        """The saving in all seconds, with control run, probes and evaluation on both sides.

        It is valid only if no ledger is missing (see `missing_ledgers`).
        """
        return 1 - self.pooled / self.separate if self.separate else 0.0


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
    training = {name: _phases(folder.run(name) for folder in folders) for name in runs}
    evaluation = _phases(folder.tables for folder in folders)
    return [
        Stage("prepare", sum(_seconds(Workdir(root).corpus).values())),
        *_reference(root, folders),
        Stage("plan", sum(_phases(folder.plan for folder in folders).values())),
        *(Stage(f"train {name}", sum(phases.values())) for name, phases in training.items()),
        *(Stage(_scoring_name(phase), s, scoring=True) for phase, s in evaluation.items()),
        Stage("report", report),
    ]


def _reference(root: pathlib.Path, folders: Sequence[Workdir]) -> list[Stage]:
    """Return the stages of a reference model that the study trained or asked."""
    trained = sum(_seconds(Workdir(root).run(REFERENCE)).values())
    chosen = sum(_phases(folder.choices("").parent for folder in folders).values())
    found = [Stage("train reference", trained), Stage("choose", chosen)]
    return [stage for stage in found if stage.seconds]


def _scoring_name(phase: str) -> str:
    """Name a phase of evaluate: 'restore', 'score/NAME' or 'generate/NAME'."""
    kind, _, experiment = phase.partition("/")
    of = {"score": experiment, "generate": f"{experiment}: generation"}
    return f"evaluate {of.get(kind, phase)}"


def cost_of_one(root: pathlib.Path, seeds: Sequence[int], experiments: int) -> Cost:
    """Sum the ledgers of all seeds.

    Probes and scoring belong to single experiments, so separate studies make each of them once as
    well. Separate studies share one control run. The rest (corpus, plan, further runs, compilation,
    validation, checkpoints) is counted once on both sides, although every separate run would pay
    for it: the saving is a lower bound. Ledgers do not include work that was lost by a kill.
    """
    folders = [Workdir(root, seed) for seed in seeds]
    names = dict.fromkeys(name for folder in folders for name in folder.runs())
    training = {name: _phases(folder.run(name) for folder in folders) for name in names}
    control, run = (training[name].get("step", 0.0) for name in RUNS)
    probes = sum(_under("probe", training[name]) for name in RUNS)
    both = sum(sum(training[name].values()) for name in RUNS)
    further = sum(sum(phases.values()) for phases in training.values()) - both
    corpus = sum(_seconds(Workdir(root).corpus).values())
    reference = sum(stage.seconds for stage in _reference(root, folders))
    plan, scoring = (
        sum(_phases(made).values())
        for made in ([f.plan for f in folders], [f.tables for f in folders])
    )
    other = both - control - run - probes
    parts = (
        Part("corpus", corpus, corpus, "made once"),
        *([Part("reference model", reference, reference, "made once")] if reference else []),
        Part("plan", plan, plan, "made once"),
        Part("control run, training steps", control, control, "one control, shared by all"),
        Part("experiment run, training steps", run, run * experiments, "× N when separate"),
        Part("probes in both runs", probes, probes, "the same probes, wherever they run"),
        Part("evaluation", scoring, scoring, "the same outcomes, wherever they are scored"),
        Part("compilation, validation, checkpoints", other, other, "once on either side"),
        Part("further runs", further, further, "once on either side"),
    )
    return Cost(experiments, parts)


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


def _phases(folders: Iterable[pathlib.Path]) -> dict[str, float]:
    """Return the seconds of several ledgers together, by phase."""
    total: dict[str, float] = {}
    for folder in folders:
        for phase, seconds in _seconds(folder).items():
            total[phase] = total.get(phase, 0.0) + seconds
    return total


def _seconds(folder: pathlib.Path) -> dict[str, float]:
    return read_ledger(folder).get("seconds", {})


def _under(phase: str, seconds: Mapping[str, float]) -> float:
    return sum(s for name, s in seconds.items() if name.split("/")[0] == phase)
