"""Choices of experiments by the reference model: made once, before the plan, and stored.

Experiments that remove texts choose first, because what they remove decides which windows of the
reserve the others get.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from ttoaa.author_errors import blame
from ttoaa.checksums import write_record
from ttoaa.config import Study
from ttoaa.evaluation.checkpoint_outcomes import load_reference, mesh_for, within
from ttoaa.experiments.base import Experiment, Model
from ttoaa.experiments.context import added_later, chooses, make_worlds, removes_texts
from ttoaa.locks import exclusive
from ttoaa.parquet_io import write_table
from ttoaa.planning.plan import Plan
from ttoaa.study_handle import StudyHandle
from ttoaa.training.run_records import LEDGER, read_ledger
from ttoaa.training.throughput import Ledger
from ttoaa.workdir import Workdir


def make_choices(study: Study, workdir: Workdir) -> Iterator[str]:
    """Let every experiment choose that has not; yield a line for each.

    Raises ValueError if there is no reference model yet, or if an experiment chose by another model
    or config, or if another process makes the choices.
    """
    choosing = [e for e in study.experiments if chooses(e)]
    if not choosing:
        yield "no experiment of this study chooses by a reference model"
        return
    with exclusive(workdir.choices("").parent, "choose", "chosen"):
        yield from _make_choices(StudyHandle(study, workdir), choosing)


def _make_choices(handle: StudyHandle, choosing: Sequence[Experiment]) -> Iterator[str]:
    workdir = handle.workdir
    for experiment in choosing:
        if workdir.choices(experiment.name).exists():
            table, _ = handle.stored_choice(experiment)
            yield f"{experiment.name} chose {len(table):,} rows already"
    left = [e for e in choosing if not workdir.choices(e.name).exists()]
    if not left:
        return
    if (workdir.plan / "plan.json").exists():
        later = added_later(Plan(workdir.plan), left)
        planned = [e.name for e in left if e.name not in later]
        if planned:
            raise ValueError(
                f"{workdir.plan} was made with a choice of {planned[0]} that is missing: restore "
                f"{workdir.choices(planned[0])} from a copy, or move the plan and its run away"
            )
    mesh = mesh_for(handle.config)
    with within(mesh):
        model = load_reference(handle, mesh)
        first = [e for e in left if removes_texts(e)]
        yield from _choose(handle, first, with_windows=False, model=model)
        yield from _choose(handle, [e for e in left if e not in first], True, model)


def _choose(
    handle: StudyHandle, experiments: Sequence[Experiment], with_windows: bool, model: Model
) -> Iterator[str]:
    config, workdir = handle.config, handle.workdir
    if not experiments:
        return
    reserve = handle.reserve if with_windows else None
    worlds = make_worlds(config.experiments, workdir.seed, config.geometry, handle.corpus, reserve)
    for experiment in experiments:
        name, ledger = experiment.name, Ledger()
        with blame(name), ledger.phase(f"choose/{name}"):
            table = experiment.choose(worlds[name], model)
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"{name}.choose must return a pandas.DataFrame")
        path = workdir.choices(name)
        seconds = read_ledger(path.parent).get("seconds", {})
        write_record(path.parent / LEDGER, {"seconds": {**seconds, **ledger.seconds}})
        write_table(table, path, handle.choice_source(experiment))
        yield f"{name} chose {len(table):,} rows in {sum(ledger.seconds.values()):.1f} s"
