"""What is done, running, missing and damaged in a study, and what to run next. Only reads."""

import pathlib
import re
import shlex
import time
from typing import Any

from ttoaa import shared_files
from ttoaa.config import Study
from ttoaa.data.corpus import MANIFEST
from ttoaa.evaluation.watch import Progress, progress, progress_of
from ttoaa.evaluation.work_list import WorkList
from ttoaa.experiments.context import added_later, check_planned, chooses
from ttoaa.locks import Lease, list_leases
from ttoaa.planning.plan import Plan
from ttoaa.report_stamp import is_current
from ttoaa.runs import REFERENCE
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.reference import TrainedReference
from ttoaa.training.run_records import check_run
from ttoaa.workdir import Workdir


def study_status(study: Study, root: pathlib.Path) -> dict[str, Any]:
    """Return the state of all seeds as JSON values."""
    prepared = (Workdir(root).corpus / MANIFEST).exists()
    seeds = [_seed(study, Workdir(root, seed)) for seed in Workdir(root).seeds() or [0]]
    state = {
        "workdir": str(root),
        "study": study.name,
        "experiments": [experiment.name for experiment in study.experiments],
        "steps": study.geometry.steps,
        "corpus": prepared,
        "reference": _reference(study, Workdir(root)),
        "seeds": seeds,
        "report": _report(root),
    }
    scored = all(seed["scored"] for seed in seeds)
    following = _next(state, scored)
    return {**state, "next": following, "done": scored and state["report"] == "made"}


def _seed(study: Study, workdir: Workdir) -> dict[str, Any]:
    runs = {name: _run(workdir, p) for name, p in progress(workdir, study.runs).items()}
    choosing = [e.name for e in study.experiments if chooses(e)]
    plan = Plan(workdir.plan) if (workdir.plan / "plan.json").exists() else None
    held = [lease for lease in list_leases(workdir.tables / "leases") if lease.alive]
    tables: dict[str, Any] = {"made": 0, "asked": 0, "missing": [], "damaged": [], "later": []}
    if plan:
        try:
            tables |= _look(study, workdir, plan)
        except (ValueError, OSError) as error:
            tables["damaged"] = [str(error)]
    for kind in runs:
        try:
            check_run(workdir.run(kind))
        except (ValueError, OSError) as error:
            tables["damaged"] = [*tables["damaged"], str(error)]
    finished = bool(plan) and all(run["finished"] for run in runs.values())
    return {
        "seed": workdir.seed,
        "runs": list(runs),
        **runs,
        "strays": workdir.strays(),
        "unchosen": [name for name in choosing if not workdir.choices(name).exists()],
        "plan": plan and plan.meta.get("hash"),
        "tables": tables,
        "scored": finished and not (tables["missing"] or tables["damaged"]),
        "running": [_lease(lease) for lease in held if not lease.name.startswith(("job-", "led"))],
        "jobs": [lease.owner for lease in held if lease.name.startswith("job-")],
    }


def _reference(study: Study, workdir: Workdir) -> dict[str, Any] | None:
    """Return the state of the reference model's run, if the study trains one that it needs."""
    if not (study.needs_reference and isinstance(study.reference, TrainedReference)):
        return None
    steps = study.reference.steps or study.geometry.steps
    return {**_run(workdir, progress_of(workdir, REFERENCE)), "steps": steps}


def _look(study: Study, workdir: Workdir, plan: Plan) -> dict[str, Any]:
    """Count made, missing and damaged tables; raise ValueError if they cannot be read."""
    check_planned(plan, study.experiments)
    worklist = WorkList(study, workdir, plan)
    # A table that a job works on is missing until it is written.
    lacking = worklist.look()
    asked = len(worklist.checkpoints()) * len(study.experiments)
    unread = sum(1 if name else len(study.experiments) for *_, name in worklist.faults)
    return {
        "made": asked - sum(len(work.lacking) for work in lacking) - unread,
        "asked": asked,
        "missing": [
            {"run": work.kind, "step": work.step, "experiments": [e.name for e in work.lacking]}
            for work in lacking
        ],
        "damaged": list(worklist.faults.values()),
        "later": added_later(plan, study.experiments),
    }


def _run(workdir: Workdir, progress: Progress) -> dict[str, Any]:
    folder = workdir.root / progress.run / "checkpoints"
    return {
        "finished": progress.finished,
        "training": progress.training,
        "step": progress.step,
        "quiet_seconds": progress.quiet,
        "checkpoints": committed_steps(folder),
        "set_aside": [
            str(folder / name)
            for name in sorted(shared_files.names(folder))
            if name.startswith("damaged-")
        ],
    }


def _lease(lease: Lease) -> dict[str, Any]:
    parts = re.fullmatch(r"(.+?)-(\d{8,})-(.+)", lease.name)
    run, step, experiment = parts.groups() if parts else (lease.name, "0", "")
    return {
        "run": run.replace("+", "/"),
        "step": int(step),
        "experiment": experiment,
        "owner": lease.owner,
        "seconds": max(0.0, time.time() - lease.since),
        "quiet_seconds": max(0.0, lease.age),
    }


def _report(root: pathlib.Path) -> str:
    report = Workdir(root).report
    if not report.exists():
        return "missing"
    return "made" if is_current(root) else "made from other tables"


def _next(state: dict[str, Any], scored: bool) -> list[str]:
    """Commands in the order to run them; empty if everything is done or in progress."""

    def command(module: str, seed: int = 0, *more: str) -> str:
        own = [f"--workdir={shlex.quote(state['workdir'])}", *([f"--seed={seed}"] if seed else [])]
        return " ".join(["python -m", f"ttoaa.{module}", *own, *more])

    if not state["corpus"]:
        return [command("prepare")]
    found = []
    reference, seeds = state["reference"], state["seeds"]
    # Once everything is planned and scored it may be deleted.
    needed = any(of["unchosen"] or not of["plan"] or of["tables"]["missing"] for of in seeds)
    if reference and needed and not reference["finished"]:
        return [] if reference["training"] else [command("train", 0, "--run=reference")]
    for of in seeds:
        seed, control, run = of["seed"], of["control"], of["run"]
        busy = any(of[name]["training"] for name in of["runs"])
        if of["unchosen"]:
            found.append(command("choose", seed))
        elif not of["plan"]:
            found.append(command("plan", seed))
        elif not (control["finished"] or control["training"]):
            found.append(command("train", seed, "--run=control"))
        elif control["finished"] and not (run["finished"] or run["training"]):
            found.append(command("train", seed, "--run=run"))
        elif run["finished"]:
            others = [name for name in of["runs"] if not of[name]["finished"]]
            idle = [name for name in others if not of[name]["training"]]
            found += [command("train", seed, f"--run={name}") for name in idle]
        if of["tables"]["missing"] and not (of["jobs"] or of["running"]):
            found.append(command("evaluate", seed, *(["--watch"] if busy else [])))
    if scored and state["report"] != "made":
        found.append(command("report"))
    return found
