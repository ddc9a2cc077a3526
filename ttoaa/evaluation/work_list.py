"""The work list of an evaluation: checkpoints, and the experiments whose tables are missing."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ttoaa import bucket, identity, shared_files
from ttoaa.config import Study
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import outcome_fingerprints
from ttoaa.parquet_io import outcome_source
from ttoaa.planning.plan import Plan
from ttoaa.runs import CONTROL, REFERENCE, parse_run
from ttoaa.training.checkpoint_io import CheckpointError, committed_steps, read_meta
from ttoaa.training.reference import find_reference, is_deleted
from ttoaa.workdir import Workdir

_MOST = 12
"""Steps that one line lists at most."""

Where = tuple[str, int, str]
"""(run, step, experiment); the experiment is '' for the whole checkpoint."""


Stamp = tuple[int, int]
"""Of a checkpoint's metadata: distinguishes it from a later one of the same step."""


class Work(NamedTuple):
    """A checkpoint with missing tables, and what its tables are made of, by experiment."""

    kind: str
    step: int
    stamp: Stamp
    sources: Mapping[str, Mapping[str, str]]
    lacking: Sequence[Experiment]

    def lease(self, experiment: Experiment) -> str:
        return f"{self.prefix}{experiment.name}"

    @property
    def prefix(self) -> str:
        """The prefix of the names of its leases."""
        return f"{self.kind.replace('/', '+')}-{self.step:08d}-"


class WorkList:
    """Polled while runs train; the metadata of a checkpoint is read once."""

    def __init__(
        self, study: Study, workdir: Workdir, plan: Plan, steps: Sequence[int] | None = None
    ) -> None:
        """`steps` restricts the steps; by default all are listed."""
        self.study, self.workdir, self.plan, self.steps = study, workdir, plan.hash, steps
        self._planned = plan.contents["experiments"]
        self.outcomes = outcome_fingerprints(study.experiments)
        self.reference = ""
        """The sha256 of the reference model; empty without one. A table that an earlier reference
        model judged counts as made once that model was deleted."""
        model = study.reference, workdir.run(REFERENCE)
        if study.needs_reference and not is_deleted(*model):
            self.reference = find_reference(*model).sha256
        self.faults: dict[Where, str] = {}
        """What was damaged at the last poll."""
        self._seen: set[tuple[str, int]] = set()
        self._metas: dict[pathlib.Path, tuple[Stamp, dict[str, Any]]] = {}
        self._made: dict[pathlib.Path, tuple[int, dict[str, str] | None]] = {}

    def checkpoints(self) -> list[tuple[str, int]]:
        """Return (run, step) of all committed checkpoints, ordered by step.

        Curves then grow from their start, checkpoints that retention deletes next are scored first,
        and all runs are scored together.
        """
        names = self.workdir.runs()
        found = [(step, name) for name in names for step in committed_steps(self._folder(name))]
        self._seen.update((kind, step) for step, kind in found)
        found.sort(key=lambda where: (where[0], names.index(where[1])))
        return [(name, step) for step, name in found]

    def look(self) -> list[Work]:
        """Return all missing work; `faults` then lists what could not be read.

        Raises ValueError if control run, run and plan do not belong together.
        """
        self.faults = {}
        there = self.checkpoints()
        known = {where: found for where in there if (found := self._meta(*where))}
        self._check_belong({where: meta for where, (_, meta) in known.items()})
        todo = []
        for kind, step in there:
            if (kind, step) not in known or not self._is_asked(step):
                continue
            stamp, meta = known[kind, step]
            sources = {
                e.name: {**self.made_of(e), "checkpoint": meta["sha256"]}
                for e in self.study.experiments
            }
            lacking = [e for e in self.study.experiments if self._lacks(kind, step, e, sources)]
            if lacking:
                todo.append(Work(kind, step, stamp, sources, lacking))
        return todo

    def _is_asked(self, step: int) -> bool:
        return self.steps is None or step in self.steps

    def made_of(self, experiment: Experiment) -> dict[str, str]:
        """What its tables are made of, in addition to a checkpoint."""
        judged = self.reference and experiment.needs_reference
        judge = {"reference": self.reference} if judged else {}
        return {"plan": self.plan, "outcome": self.outcomes[experiment.name], **judge}

    def is_made(self, work: Work, experiment: Experiment) -> bool:
        """Whether the table exists by now, perhaps written by another job."""
        bucket.pull_file(self.workdir.table(work.kind, work.step, experiment.name))
        return self._has_table(work.kind, work.step, experiment, work.sources[experiment.name])

    def unscored(self, runs: Sequence[tuple[str, int]]) -> list[str]:
        """List the checkpoints that do not exist and whose tables are not complete either."""
        return [
            f"{kind} step {step}: no such checkpoint, or it was deleted"
            for kind, step in self._lost(runs)
        ]

    def missed(self) -> str:
        """Return one line on checkpoints that were deleted before they were scored, or ''."""
        lost = self._lost(sorted(self._seen))
        kinds = dict.fromkeys(kind for kind, _ in lost)
        by_kind = {kind: [step for its, step in lost if its == kind] for kind in kinds}
        listed = "; ".join(f"{kind} step {_listed(at)}" for kind, at in by_kind.items() if at)
        line = f"checkpoints that were deleted before they were scored: {len(lost)} ({listed})"
        return line if lost else ""

    def _lost(self, runs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return the checkpoints that are deleted, and whose tables are not complete."""
        there = {
            kind: shared_files.names(self._folder(kind)) for kind in {kind for kind, _ in runs}
        }
        return [
            (kind, step)
            for kind, step in runs
            if str(step) not in there[kind]
            and not all(
                self._has_table(kind, step, e, self.made_of(e)) for e in self.study.experiments
            )
        ]

    def _has_table(
        self, kind: str, step: int, experiment: Experiment, made_of: Mapping[str, str]
    ) -> bool:
        source = self._source(kind, step, experiment) or {}
        return made_of.items() <= source.items()

    def _lacks(self, kind: str, step: int, experiment: Experiment, sources: Any) -> bool:
        try:
            return not self._has_table(kind, step, experiment, sources[experiment.name])
        except ValueError as error:
            self.faults[kind, step, experiment.name] = str(error)
            return False

    def _source(self, kind: str, step: int, experiment: Experiment) -> dict[str, str] | None:
        """What the table was made of; None without a table; ValueError if it is damaged."""
        path = self.workdir.table(kind, step, experiment.name)
        stamp = path.stat().st_mtime_ns if path.exists() else 0
        if self._made.get(path, (-1,))[0] != stamp:
            self._made[path] = stamp, outcome_source(path)
        return self._made[path][1]

    def _meta(self, kind: str, step: int) -> tuple[Stamp, dict[str, Any]] | None:
        folder = self._folder(kind)
        checkpoint = folder / str(step)
        try:
            stamp = shared_files.stamp(checkpoint / "meta" / "metadata")
            if checkpoint not in self._metas or self._metas[checkpoint][0] != stamp:
                self._metas[checkpoint] = stamp, read_meta(folder, step)
            return self._metas[checkpoint]
        except (CheckpointError, OSError) as error:
            if self._is_asked(step) and str(step) in shared_files.names(
                folder
            ):  # the trainer may just have deleted it
                self.faults[kind, step, ""] = leave_out(error, checkpoint)
            return None

    def _check_belong(self, metas: Mapping[tuple[str, int], dict[str, Any]]) -> None:
        controls = [meta["identity"] for (kind, _), meta in metas.items() if kind == CONTROL]
        control = controls[-1] if controls else {}
        for (kind, _), meta in metas.items():
            spec = parse_run(kind, self._planned)
            expected = {name: part for name, part in control.items() if name not in spec.differs}
            expected["plan"] = self.plan if spec.experiments else "none"
            expected |= {"subset": list(spec.subset)} if spec.subset else {}
            expected.pop("controllers", None)  # in a control run they decide nothing
            identity.check(self.workdir.run(kind), meta["identity"], expected, identity.RETRAIN)

    def _folder(self, kind: str) -> pathlib.Path:
        return self.workdir.run(kind) / "checkpoints"


def _listed(steps: Sequence[int]) -> str:
    more = [f"… {steps[-1]}"] if len(steps) > _MOST else []
    return ", ".join([*map(str, steps[:_MOST]), *more])


def leave_out(error: Exception, checkpoint: pathlib.Path) -> str:
    return f"{error}; remove {checkpoint} to leave that step out"


def known_steps(workdir: Workdir, names: Sequence[str], coming: bool) -> list[int]:
    """Parse steps; raise ValueError for one without a checkpoint, unless more are `coming`."""
    folders = [workdir.run(name) / "checkpoints" for name in workdir.runs()]
    there = {step for folder in folders for step in committed_steps(folder)}
    for name in names:
        if not name.isdecimal() or not (coming or int(name) in there):
            raise ValueError(f"--steps: no checkpoint {name!r}, only {sorted(there)}")
    return [int(name) for name in names]
