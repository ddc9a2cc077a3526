"""Scores every finished checkpoint of a study: python -m ttoaa.evaluate --workdir=…

A job of its own that needs only the study's folder. Each (checkpoint, experiment) gives one table,
committed whole; what is there is not done again, so a killed job costs its open table at most.
"""

import pathlib
import sys
from collections.abc import Sequence

import tqdm
from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.worlds import check_planned
from ttoaa.model.decoder import abstract_params
from ttoaa.planning.plan import Plan
from ttoaa.scoring.scorer import CheckpointScorer, read_probes
from ttoaa.scoring.tables import source_of, write
from ttoaa.training.checkpoints import CheckpointError, committed_steps, read, read_meta
from ttoaa.training.ledger import Ledger
from ttoaa.training.loop import check_identity
from ttoaa.training.pins import Gone, pin
from ttoaa.training.topology import pin_cores
from ttoaa.workdir import RUNS, Workdir, read_json, write_json

_EXPERIMENTS = flags.DEFINE_list("experiments", None, "only these experiments, by name")
_STEPS = flags.DEFINE_list("steps", None, "only checkpoints of these steps")

Work = tuple[str, int, dict[str, str], list[Experiment]]
"""(run, step, what its tables are made of, experiments without such a table)."""


def missing(
    study: config.Study, workdir: Workdir, plan: Plan, steps: Sequence[int] | None = None
) -> tuple[list[Work], list[str]]:
    """What is to be done, and what cannot be: checkpoints whose meta is damaged.

    Raises ValueError where control run, run and plan do not belong together, or where there is
    no checkpoint yet.
    """
    todo: list[Work] = []
    failures: list[str] = []
    identities: dict[str, dict[str, str]] = {}
    for kind in RUNS:
        folder = workdir.run(kind) / "checkpoints"
        for step in committed_steps(folder):
            try:
                meta = read_meta(folder, step)
            except CheckpointError as error:
                if (folder / str(step)).exists():  # or the trainer has just deleted it
                    failures.append(_leave_out(error, folder, step))
                continue
            identities[kind] = meta["identity"]
            _check_belongs(workdir, plan, kind, identities)
            source = {"plan": plan.hash, "checkpoint": meta["sha256"]}
            tables = {e.name: workdir.table(kind, step, e.name) for e in study.experiments}
            lacking = [e for e in study.experiments if source_of(tables[e.name]) != source]
            if lacking and (steps is None or step in steps):
                todo.append((kind, step, source, lacking))
    if not identities and not failures:
        raise ValueError(f"{workdir.root} has no checkpoint yet: run python -m ttoaa.train first")
    return todo, failures


def _check_belongs(
    workdir: Workdir, plan: Plan, kind: str, identities: dict[str, dict[str, str]]
) -> None:
    expected = {**identities.get("control", {}), "plan": plan.hash if kind == "run" else "none"}
    check_identity(workdir.run(kind), identities[kind], expected)


def _leave_out(error: Exception, folder: pathlib.Path, step: int) -> str:
    return f"{error}; remove {folder / str(step)} to leave that step out"


def evaluate(
    study: config.Study, workdir: Workdir, steps: Sequence[int] | None = None
) -> tuple[int, list[str]]:
    """(tables written, failures): one failing outcome or checkpoint does not hide the others."""
    plan = Plan.open(workdir.plan)
    check_planned(plan, study.experiments)
    todo, failures = missing(study, workdir, plan, steps)
    if not todo:
        return 0, failures
    tokenizer = Corpus.open(workdir.corpus).tokenizer
    path = workdir.tables / "ledger.json"
    ledger = Ledger(read_json(path)["seconds"] if path.exists() else None)
    written = 0
    label = f"evaluate seed {workdir.seed}" if workdir.seed else "evaluate"
    total = sum(len(work[3]) for work in todo)
    with tqdm.tqdm(total=total, desc=label, unit="table", dynamic_ncols=True) as bar:
        for kind, step, source, experiments in todo:
            run = workdir.run(kind)
            try:
                with ledger.phase("restore"), pin(run / "checkpoints", step):
                    abstract = abstract_params(study.model)
                    params = read(run / "checkpoints", step, params=abstract)["params"]
            except Gone:  # the trainer has just deleted it
                bar.update(len(experiments))
                continue
            except CheckpointError as error:
                failures.append(_leave_out(error, run / "checkpoints", step))
                bar.update(len(experiments))
                continue
            for experiment in experiments:
                try:
                    with ledger.phase(f"score/{experiment.name}"):
                        scorer = CheckpointScorer(
                            step=step,
                            items=plan.items(experiment.name),
                            probes=read_probes(run, experiment.name, step),
                            tokenizer=tokenizer,
                            config=study.model,
                            params=params,
                        )
                        table = experiment.outcome(scorer)
                    write(table, workdir.table(kind, step, experiment.name), source)
                    written += 1
                except Exception as error:  # whatever a third party's outcome raises
                    failures.append(f"{experiment.name} on {kind} step {step}: {error!r}")
                write_json(path, {"seconds": ledger.seconds})
                bar.update()
    return written, failures


def _known_steps(workdir: Workdir, names: Sequence[str]) -> list[int]:
    there = {step for kind in RUNS for step in committed_steps(workdir.run(kind) / "checkpoints")}
    for name in names:
        if not name.isdecimal() or int(name) not in there:
            raise ValueError(f"--steps: there is no checkpoint {name!r}, only {sorted(there)}")
    return [int(name) for name in names]


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        study, workdir = config.load_from_flags(), config.workdir_from_flags()
        study = config.only(study, _EXPERIMENTS.value)
        pin_cores()
        config.cache_compilations(workdir)
        steps = _known_steps(workdir, _STEPS.value) if _STEPS.value else None
        written, failures = evaluate(study, workdir, steps)
    except (ValueError, OSError) as error:
        sys.exit(f"evaluate: {error}")
    print(f"evaluate: {written} tables written in {workdir.tables}")
    for failure in failures:
        print(f"evaluate: failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    app.run(main)
