"""What of a study is done, running, missing and damaged, and what to type next; only reads."""

import pathlib
import shlex
import time
from typing import Any

from ttoaa.config import Study
from ttoaa.data.corpus import MANIFEST
from ttoaa.evaluation.progress import Progress, progress
from ttoaa.evaluation.work import WorkList
from ttoaa.experiments.worlds import added_later, check_planned
from ttoaa.leases import Lease, leases
from ttoaa.planning.plan import Plan
from ttoaa.training.stored import committed_steps
from ttoaa.workdir import RUNS, Workdir


def state(study: Study, root: pathlib.Path) -> dict[str, Any]:
    """Of all seeds, as plain values that JSON can hold."""
    prepared = (Workdir(root).corpus / MANIFEST).exists()
    seeds = [_seed(study, Workdir(root, seed)) for seed in Workdir(root).seeds() or [0]]
    told = {
        "workdir": str(root),
        "study": study.name,
        "experiments": [experiment.name for experiment in study.experiments],
        "steps": study.geometry.steps,
        "corpus": prepared,
        "seeds": seeds,
        "report": _report(root),
    }
    scored = all(_is_scored(seed) for seed in seeds)
    following = _next(told, scored)
    return {**told, "next": following, "done": scored and told["report"] == "made"}


def _is_scored(seed: dict[str, Any]) -> bool:
    return all(seed[kind]["finished"] for kind in RUNS) and not seed["tables"]["missing"]


def _seed(study: Study, workdir: Workdir) -> dict[str, Any]:
    runs = {kind: _run(workdir, p) for kind, p in progress(workdir).items()}
    plan = Plan(workdir.plan) if (workdir.plan / "plan.json").exists() else None
    held = [lease for lease in leases(workdir.tables / "leases") if lease.alive]
    found: dict[str, Any] = {"asked": 0, "missing": [], "damaged": [], "later": []}
    for kind in RUNS:
        aside = sorted((workdir.run(kind) / "checkpoints").glob("damaged-*"))
        found["damaged"] += [f"{path} was set aside by the trainer" for path in aside]
    if plan:
        try:
            _look(study, workdir, plan, found)
        except (ValueError, OSError) as error:
            found["damaged"].append(str(error))
    # A table that a job has open lacks all the same, until it is written.
    lacking = sum(len(work["experiments"]) for work in found["missing"])
    return {
        "seed": workdir.seed,
        **runs,
        "plan": plan and plan.meta.get("hash"),
        "tables": {"made": found["asked"] - lacking - found.pop("unread", 0), **found},
        "running": [_lease(lease) for lease in held if not lease.name.startswith(("job-", "led"))],
        "jobs": [lease.owner for lease in held if lease.name.startswith("job-")],
    }


def _look(study: Study, workdir: Workdir, plan: Plan, found: dict[str, Any]) -> None:
    check_planned(plan, study.experiments)
    found["later"] = added_later(plan, study.experiments)
    worklist = WorkList(study, workdir, plan.hash)
    found["asked"] = len(worklist.checkpoints()) * len(study.experiments)
    found["missing"] = [
        {"run": work.kind, "step": work.step, "experiments": [e.name for e in work.lacking]}
        for work in worklist.look()
    ]
    found["damaged"] += worklist.faults.values()
    found["unread"] = sum(1 if name else len(study.experiments) for *_, name in worklist.faults)


def _run(workdir: Workdir, told: Progress) -> dict[str, Any]:
    return {
        "finished": told.finished,
        "training": told.training,
        "step": told.step,
        "quiet_seconds": told.quiet,
        "checkpoints": committed_steps(workdir.root / told.run / "checkpoints"),
    }


def _lease(lease: Lease) -> dict[str, Any]:
    run, step, experiment = lease.name.split("-", 2)
    return {
        "run": run,
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
    made = report.stat().st_mtime
    later = (p for p in root.glob("tables*/*/*/*.parquet") if p.stat().st_mtime > made)
    return "older than its tables" if any(later) else "made"


def _next(told: dict[str, Any], scored: bool) -> list[str]:
    """Commands, in the order in which to type them; empty where all is done or under way."""

    def command(module: str, seed: int = 0, *more: str) -> str:
        own = [f"--workdir={shlex.quote(told['workdir'])}", *([f"--seed={seed}"] if seed else [])]
        return " ".join(["python -m", f"ttoaa.{module}", *own, *more])

    if not told["corpus"]:
        return [command("prepare")]
    found = []
    for of in told["seeds"]:
        seed, control, run = of["seed"], of["control"], of["run"]
        busy = control["training"] or run["training"]
        if not (control["finished"] or control["training"]):
            found.append(command("train", seed, "--run=control"))
        elif control["finished"] and not of["plan"]:
            found.append(command("plan", seed))
        elif of["plan"] and not (run["finished"] or run["training"]):
            found.append(command("train", seed, "--run=run"))
        if of["tables"]["missing"] and not (of["jobs"] or of["running"]):
            found.append(command("evaluate", seed, *(["--watch"] if busy else [])))
    if scored and told["report"] != "made":
        found.append(command("report"))
    return found
