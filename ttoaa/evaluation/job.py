"""Score missing (checkpoint, experiment) pairs until none remain (contract C10).

Several jobs may run in one folder. Each prefers a checkpoint that no other job works on, so that
few are restored twice, and helps with the others when none is left. A job holds the lease of one
table at a time, and acquires the next of the same checkpoint before it releases the last, so that
others see which checkpoint it works on.
"""

import time
from collections.abc import Sequence
from typing import Any

from ttoaa import bucket, parquet_io
from ttoaa.author_errors import describe
from ttoaa.checksums import write_record
from ttoaa.config import Study
from ttoaa.evaluation.checkpoint_outcomes import Scores
from ttoaa.evaluation.watch import GaveUp, Patience, Waiting, progress, span
from ttoaa.evaluation.work_list import Where, Work, WorkList, leave_out
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import added_later
from ttoaa.locks import CheckpointGone, Leases, remove_dead_pins
from ttoaa.progress import progress_bar
from ttoaa.study_handle import StudyHandle
from ttoaa.training.checkpoint_io import CheckpointError
from ttoaa.training.run_records import LEDGER, check_run, read_ledger
from ttoaa.training.throughput import Ledger
from ttoaa.workdir import Workdir


def evaluate(
    study: Study,
    workdir: Workdir,
    steps: Sequence[int] | None = None,
    patience: Patience | None = None,
) -> tuple[int, list[str]]:
    """Score what is missing; return (tables written, failures).

    A failing outcome or checkpoint does not affect the others.
    """
    waiting = Waiting(workdir, patience or Patience())
    while waiting.watch and not (workdir.plan / "plan.json").exists():
        waiting.on("the plan (run python -m ttoaa.plan)")
        bucket.pull(workdir.root)
    handle = StudyHandle(study, workdir)
    plan = handle.plan
    for notice in filter(None, (check_run(workdir.run(name)) for name in workdir.runs())):
        print(f"evaluate: {notice}")
    for line in workdir.strays():
        print(f"evaluate: {line}")
    lost = not read_ledger(workdir.tables) and any(workdir.tables.glob("*/*/*.parquet"))
    if lost:
        path = workdir.tables / LEDGER
        print(f"evaluate: {path} is missing: the report cannot include the cost of evaluation")
    for name in added_later(plan, study.experiments):
        print(f"evaluate: {name} is not in the plan: it inserts nothing and was added later")
    worklist = WorkList(study, workdir, plan, steps)
    there = worklist.checkpoints()
    if not there and not waiting.watch:
        raise ValueError(f"{workdir.root} has no checkpoint yet: run python -m ttoaa.train first")
    runs = [(name, step) for name in workdir.runs() for step in steps or ()]
    asked = runs if waiting.watch else [where for where in runs if where in there]
    with Leases(workdir.tables / "leases", waiting.patience.stale) as leases:
        leases.acquire(f"job-{leases.owner}")  # so that ttoaa.status sees a waiting job
        job = _Job(worklist, Scores(handle), leases, lost)
        gave_up = job.run(waiting, asked)
        leases.remove_stale()
        for name in workdir.runs():
            remove_dead_pins(workdir.run(name) / "checkpoints")
    if waiting.watch and steps is None and not gave_up and (missed := worklist.missed()):
        print(f"evaluate: {missed}")
    return job.written, [*job.failures(), *worklist.unscored(asked), *gave_up]


class _Job:
    def __init__(
        self, worklist: WorkList, scores: Scores, leases: Leases, lost: bool = False
    ) -> None:
        """`lost`: the ledger of the existing tables is missing."""
        self.worklist, self.scores, self.leases = worklist, scores, leases
        self.lost = lost
        self.failed: dict[Where, tuple[Work, str]] = {}
        self.written = 0
        self.ledger = Ledger()
        seed = worklist.workdir.seed
        label = f"evaluate seed {seed}" if seed else "evaluate"
        # With any delay, the bar stays hidden until a table has to be made.
        self.bar = progress_bar(desc=label, unit="table", delay=1e-9)

    def run(self, waiting: Waiting, asked: Sequence[tuple[str, int]]) -> list[str]:
        """Work until nothing is left to do or to wait for; return why it gave up, if it did."""
        try:
            with self.bar:
                while not self._over(waiting, asked):
                    pass
            return []
        except GaveUp as error:
            return [str(error)]
        finally:
            self._note(last=True)

    def failures(self) -> list[str]:
        """What failed and no other job has made since, and what is damaged."""
        failed = {
            where: reason
            for where, (work, reason) in self.failed.items()
            if any(not self.worklist.is_made(work, e) for e in work.lacking)
        }
        return list({**self.worklist.faults, **failed}.values())

    def _over(self, waiting: Waiting, asked: Sequence[tuple[str, int]]) -> bool:
        """Score part of one checkpoint, or wait; return True when nothing is left of either."""
        # Before the work list: a run that has ended by now has all of its checkpoints.
        bucket.pull(waiting.workdir.root)
        runs = progress(waiting.workdir, self.worklist.study.runs)
        unfinished = [str(run) for run in runs.values() if not run.finished]
        todo = [work for work in map(self._without_failed, self.worklist.look()) if work.lacking]
        self.bar.total = self.bar.n + sum(len(work.lacking) for work in todo)
        if todo:
            self.bar.refresh()
        if taken := self._take(todo):
            self._score(*taken)
            waiting.restart()
            return False
        if not todo:
            if not waiting.watch or (asked and not self.worklist.unscored(asked)):
                return True
            if unfinished:
                waiting.on(", ".join(unfinished))
            return not unfinished
        prefixes = tuple(work.prefix for work in todo)
        if others := [x for x in self.leases.of_others() if x.name.startswith(prefixes)]:
            waiting.restart()
        at = [f"{x.name} of {x.owner} ({span(x.age)} ago)" for x in others]
        waiting.on("other jobs: " + ", ".join(at))
        return False

    def _note(self, last: bool = False) -> None:
        """Add this job's seconds to the study's ledger; later, if another job does so just now."""
        tries = 100 if last else 1
        path = self.worklist.workdir.tables / LEDGER
        while self.ledger.seconds and not self.leases.acquire("ledger"):
            tries -= 1
            if not tries:
                if last:
                    seconds = sum(self.ledger.seconds.values())
                    lost = f"{span(seconds)} of work are missing from the ledger"
                    print(f"evaluate: {lost}: {path} is in use")
                return
            time.sleep(0.05)
        if not self.ledger.seconds:
            return
        try:
            bucket.pull_file(path)
            record = read_ledger(path.parent)
            total = Ledger(record.get("seconds")).seconds
            for name, seconds in self.ledger.seconds.items():
                total[name] = total.get(name, 0.0) + seconds
            partial = self.lost or record.get("incomplete", False)
            write_record(path, {"seconds": total, **({"incomplete": True} if partial else {})})
            self.ledger.seconds.clear()
        finally:
            self.leases.release("ledger")

    def _without_failed(self, work: Work) -> Work:
        """Leave out what this job failed at, unless the checkpoint has been replaced since."""

        def failed(name: str) -> bool:
            before = self.failed.get((work.kind, work.step, name))
            return before is not None and before[0].stamp == work.stamp

        left = [e for e in work.lacking if not (failed("") or failed(e.name))]
        return work._replace(lacking=left)

    def _take(self, todo: Sequence[Work]) -> tuple[Work, Experiment] | None:
        """A free table, preferably of a checkpoint that no other job works on."""
        busy = [lease.name for lease in self.leases.of_others()]
        alone = [w for w in todo if not any(name.startswith(w.prefix) for name in busy)]
        first = [(work, work.lacking[0]) for work in alone]
        every = [(work, experiment) for work in todo for experiment in work.lacking]
        return next((one for one in (*first, *every) if self._is_ours(*one)), None)

    def _is_ours(self, work: Work, experiment: Experiment) -> bool:
        """Acquire the lease of a table that still has to be made."""
        lease = work.lease(experiment)
        if not self.leases.acquire(lease):
            return False
        if self.worklist.is_made(work, experiment):
            self.leases.release(lease)
            return False
        return True

    def _score(self, work: Work, experiment: Experiment) -> None:
        """Make this table, then free ones of the same checkpoint."""
        self.scores.open()
        held: Experiment | None = experiment
        rest = iter([e for e in work.lacking if e is not experiment])
        try:
            # Pinned to the end: if this job dies, another can continue with the checkpoint.
            with self.scores.kept(work):
                with self.ledger.phase("restore"):
                    params = self.scores.restore(work)
                while held:
                    self._commit(work, held, params)
                    following = next((e for e in rest if self._is_ours(work, e)), None)
                    self.leases.release(work.lease(held))
                    held = following
        except CheckpointGone:  # the trainer has just deleted it
            pass
        except CheckpointError as error:
            folder = self.worklist.workdir.run(work.kind) / "checkpoints" / str(work.step)
            self.failed[work.kind, work.step, ""] = work, leave_out(error, folder)
        finally:
            if held:
                self.leases.release(work.lease(held))

    def _commit(self, work: Work, experiment: Experiment, params: Any) -> None:
        name = experiment.name
        self.worklist.checkpoints()  # so that no checkpoint is deleted unseen
        path = self.worklist.workdir.table(work.kind, work.step, name)
        try:
            with self.ledger.phase(f"score/{name}"):
                table = self.scores.table(work, experiment, params, self.ledger)
            if not self.leases.holds(work.lease(experiment)):
                return  # this job stalled for so long that another considered it dead
            parquet_io.write_outcomes(table, path, work.sources[name])
            self.written += 1
            self.bar.update()
        except Exception as error:  # outcomes of third parties may raise anything
            reason = f"{name} on {work.kind} step {work.step}: {describe(error)}"
            self.failed[work.kind, work.step, name] = work._replace(lacking=[experiment]), reason
        self._note()
