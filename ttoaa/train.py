"""Train the control run, or the run with the experiments.

  ttoaa train --workdir=runs/mine --run=control
  ttoaa train --workdir=runs/mine

Training continues from the newest checkpoint; a finished run is left as it is.
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from ttoaa import command_line, config
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Transform, batches
from ttoaa.data.order import Order, training_order
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.experiments import controllers
from ttoaa.experiments.base import World
from ttoaa.experiments.context import (
    ask_removals,
    check_planned,
    make_worlds,
    probes_fingerprint,
    validation_tokens,
)
from ttoaa.locks import exclusive_trainer
from ttoaa.model.sharding import make_mesh
from ttoaa.planning.build import interventions
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.injection import Overlay, SlotOverlay
from ttoaa.planning.plan import Edits, Plan
from ttoaa.training import init_from, multihost, throughput
from ttoaa.training.checkpoint_io import newest_meta
from ttoaa.training.controller_loop import ControllerSet
from ttoaa.training.device_feed import followed
from ttoaa.training.job import Job
from ttoaa.training.loop import AGREED, Stopped, check_identity, train
from ttoaa.training.step import CompiledStep
from ttoaa.training.topology import pin_cores, split_cpu
from ttoaa.workdir import RUNS, Workdir, read_json

_RUN = flags.DEFINE_enum(
    "run", "run", RUNS, "which run to train: the control run, or the run with the experiments"
)


_BEGAN = time.time()


def inputs(study: config.Study, workdir: Workdir, kind: str) -> dict[str, Any]:
    """A Job's fields that have nothing to do with the devices, which this leaves alone.

    Opens and checks all that a run needs; raises ValueError before any of it starts.
    """
    corpus = Corpus.open(workdir.corpus)
    geometry = study.geometry
    if study.model.vocab_size < corpus.vocab_size:
        raise ValueError(
            f"the corpus has a vocabulary of {corpus.vocab_size}, DecoderConfig.vocab_size is "
            f"only {study.model.vocab_size}: raise it"
        )
    order = training_order(corpus, workdir.seed, geometry.length)
    removals = ask_removals(study.experiments, workdir.seed, geometry, corpus)
    worlds = make_worlds(
        study.experiments, workdir.seed, geometry, corpus, study.validation_sequences, removals
    )
    plan: Edits
    if kind == "run":
        plan = _matching_plan(study, workdir, corpus, order)
    else:  # on trial: one that cannot work is refused now, not after a control run was paid for
        found, _ = interventions(study, worlds, corpus, order, removals)
        plan = compile_plan(found, geometry, corpus.vocab_size, {"seed": workdir.seed})
    arms = plan.arms
    if len(arms) >= study.training.max_arms:
        raise ValueError(
            f"the plan has {len(arms)} arms beside the corpus, Training.max_arms is only "
            f"{study.training.max_arms}: raise it"
        )
    probes = [(e.name, p) for e in study.experiments for p in e.probes(worlds[e.name])]
    controls = _controls(study, kind, plan, worlds, corpus.vocab_size)
    overlay = [Overlay(plan, corpus)] if kind == "run" else []
    early, late = _transforms(overlay, controls.filled, study.training.repetition_filter)
    begun = [made for each in (kind, "control") if (made := _made(workdir.run(each)))]
    began_from = begun[0].get("init_from") if begun else None
    identity = {
        "corpus": corpus.fingerprint,
        "order": order.fingerprint,
        "plan": plan.hash if kind == "run" else "none",
        "probes": "-".join(filter(None, [probes_fingerprint(probes), controls.measured])),
        "controllers": controls.root if controls.filled else "none",
        "geometry": repr(geometry),
        "model": repr(study.model),
        "training": study.training.numerics(),
        "seed": str(workdir.seed),
        "init_from": init_from.identity(study.init_from, began_from),
    }
    if kind == "run" and (before := _made(workdir.run("control"))):
        alike = {**identity, "plan": "none", "controllers": "none"}
        check_identity(workdir.run("control"), before, alike)
    return dict(
        folder=workdir.run(kind),
        seed=workdir.seed,
        identity=identity,
        batches=lambda start, rows: followed(
            batches(corpus, order, geometry, early, rows=rows, start=start), late
        ),
        controls=controls,
        probes=probes,
        validation_NxL=validation_tokens(corpus, geometry, study.validation_sequences),
        label=workdir.run(kind).name,
        init_from=study.init_from,
        config=workdir.config.read_text(encoding="utf-8"),
    )


def _controls(
    study: config.Study, kind: str, plan: Edits, worlds: Mapping[str, World], vocab_size: int
) -> ControllerSet:
    """The controllers, checked; a control run measures for them and fills nothing."""
    found = [(e.name, c) for e in study.experiments for c in e.controllers(worlds[e.name])]
    if not found:
        return ControllerSet()
    controllers.check_controllers(found, vocab_size)
    filled, measured = (
        SlotOverlay(plan, controllers.slot_texts(found)),
        controllers.measured_fingerprint(found),
    )
    if kind == "run":
        return ControllerSet(found, controllers.controllers_fingerprint(found), measured, filled)
    return ControllerSet(found, measured, measured)


def _transforms(
    overlay: Sequence[Transform], filled: SlotOverlay | None, repetition: RepetitionFilter | None
) -> tuple[list[Transform], list[Transform]]:
    """Those that the loader may do ahead of time, and those that must wait for decisions."""
    edits: list[Transform] = [*overlay, filled] if filled else [*overlay]
    every = repetition.among(edits) if repetition else edits
    first = every.index(filled) if filled else len(every)
    return every[:first], every[first:]


def _made(folder: pathlib.Path) -> dict[str, str] | None:
    """The identity by which that run began; None where it has not got to a checkpoint."""
    finished = folder / "finished.json"
    meta = read_json(finished) if finished.exists() else newest_meta(folder / "checkpoints")
    return meta["identity"] if meta else None


def program_of(study: config.Study) -> CompiledStep:
    """The training step on the devices that are here."""
    mesh = make_mesh(study.layout)
    return CompiledStep(study.model, study.training, study.geometry, study.execution, mesh)


def _matching_plan(study: config.Study, workdir: Workdir, corpus: Corpus, order: Order) -> Plan:
    plan = Plan.open(workdir.plan)
    check_planned(plan, study.experiments)
    ours = {
        "corpus": corpus.fingerprint,
        "order": order.identity(),
        "geometry": dataclasses.asdict(study.geometry),
        "seed": workdir.seed,
    }
    for name, value in ours.items():
        if plan.contents[name] != value:
            raise ValueError(
                f"{workdir.plan} was made for {name} {plan.contents[name]}, this run has {value}: "
                "use another --workdir, or move the plan away and plan again"
            )
    return plan


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        multihost.start()
        with multihost.exiting("train", *AGREED):
            study, workdir = config.load_from_flags(), config.workdir_from_flags()
            told = run(study, workdir, _RUN.value, throughput.STEPS.value)
    except Stopped as stopped:
        told, code = str(stopped), 143
    else:
        code = 0
    if multihost.primary():
        print(f"train: {told}")
    sys.exit(code)


def run(study: config.Study, workdir: Workdir, kind: str, profile_steps: str | None = None) -> str:
    """Does what is left of the 'control' run or the 'run'; returns what to tell of it."""
    folder = workdir.run(kind)
    if (folder / "finished.json").exists():
        check_identity(folder, _made(folder) or {}, inputs(study, workdir, kind)["identity"])
        return f"{folder} is finished already"
    config.cache_compilations(workdir)
    profile = throughput.steps_of(profile_steps, study.geometry.steps)
    parts = inputs(study, workdir, kind)
    with contextlib.ExitStack() as stack:

        def take() -> None:
            parts["ours"] = stack.enter_context(exclusive_trainer(folder))

        # Before any device is touched: a trainer that lives may hold them.
        multihost.primary_first(take)
        meta = newest_meta(folder / "checkpoints")
        began = meta["topology"] if meta and meta["topology"]["platform"] == "cpu" else {}
        pin_cores(began.get("cores"))
        split_cpu(study.geometry.batch, study.layout, began.get("devices"))
        train(Job(**parts, program=program_of(study), profile=profile, began=_BEGAN))
    return f"{folder} is finished at step {study.geometry.steps:,}"


if __name__ == "__main__":
    command_line.run("train", main, config, multihost, throughput)
