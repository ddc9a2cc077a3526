"""Scores every finished checkpoint of a study: python -m ttoaa.evaluate --workdir=…

A job of its own that needs only the study's folder. Each (checkpoint, experiment) gives one table,
committed whole; what is there is not done again, so a killed job costs its open table at most.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence

import pandas as pd
import tqdm
from absl import app, flags

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.experiments.base import Experiment
from ttoaa.model.decoder import Params, abstract_params
from ttoaa.planning.plan import Plan
from ttoaa.scoring.scorer import CheckpointScorer, read_probes
from ttoaa.training.checkpoints import CheckpointError, committed_steps, read
from ttoaa.training.ledger import Ledger
from ttoaa.training.topology import pin_cores
from ttoaa.workdir import RUNS, Workdir, read_json, write_bytes, write_json

_EXPERIMENTS = flags.DEFINE_list("experiments", None, "only these experiments, by name")
_STEPS = flags.DEFINE_list("steps", None, "only checkpoints of these steps")

COLUMNS = ("item", "condition", "outcome", "value")


def missing(
    study: config.Study, workdir: Workdir, steps: Sequence[int] | None = None
) -> Iterator[tuple[str, int, list[Experiment]]]:
    """(run, step, experiments without a table) of every finished checkpoint that lacks some."""
    for kind in RUNS:
        for step in committed_steps(workdir.run(kind) / "checkpoints"):
            if steps is not None and step not in steps:
                continue
            lacking = [
                e for e in study.experiments if not workdir.table(kind, step, e.name).exists()
            ]
            if lacking:
                yield kind, step, lacking


def evaluate(
    study: config.Study, workdir: Workdir, steps: Sequence[int] | None = None
) -> tuple[int, list[str]]:
    """(tables written, failures): one failing outcome or checkpoint does not hide the others."""
    todo = list(missing(study, workdir, steps))
    if not todo:
        return 0, []
    corpus, plan = Corpus.open(workdir.corpus), Plan.open(workdir.plan)
    path = workdir.tables / "ledger.json"
    ledger = Ledger(read_json(path)["seconds"] if path.exists() else None)
    written, failures = 0, []
    label = f"evaluate seed {workdir.seed}" if workdir.seed else "evaluate"
    total = sum(len(experiments) for _, _, experiments in todo)
    with tqdm.tqdm(total=total, desc=label, unit="table", dynamic_ncols=True) as bar:
        for kind, step, experiments in todo:
            try:
                with ledger.phase("restore"):
                    params = _params(study, workdir.run(kind), step)
            except CheckpointError as error:
                failures.append(str(error))
                bar.update(len(experiments))
                continue
            for experiment in experiments:
                try:
                    with ledger.phase(f"score/{experiment.name}"):
                        scorer = CheckpointScorer(
                            step=step,
                            items=plan.items(experiment.name),
                            probes=read_probes(workdir.run(kind), experiment.name, step),
                            tokenizer=corpus.tokenizer,
                            config=study.model,
                            params=params,
                        )
                        table = experiment.outcome(scorer)
                    commit(table, workdir.table(kind, step, experiment.name))
                    written += 1
                except Exception as error:  # whatever a third party's outcome raises
                    failures.append(f"{experiment.name} on {kind} step {step}: {error!r}")
                bar.update()
    write_json(path, {"seconds": ledger.seconds})
    return written, failures


def _known_steps(workdir: Workdir, names: Sequence[str]) -> list[int]:
    there = {step for kind in RUNS for step in committed_steps(workdir.run(kind) / "checkpoints")}
    for name in names:
        if not name.isdecimal() or int(name) not in there:
            raise ValueError(f"--steps: there is no checkpoint {name!r}, only {sorted(there)}")
    return [int(name) for name in names]


def _params(study: config.Study, run: pathlib.Path, step: int) -> Params:
    return read(run / "checkpoints", step, params=abstract_params(study.model))["params"]


def commit(table: pd.DataFrame, path: pathlib.Path) -> None:
    """Writes a tidy table whole or not at all."""
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise ValueError(f"an outcome table needs the column {absent[0]!r}")
    write_bytes(path, table.to_parquet(index=False))


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
