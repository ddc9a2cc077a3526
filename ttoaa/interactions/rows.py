"""Train and score the rows of a study of bursts: missing ones, in one process (contract C10).

A row is one run of one seed. All rows of a checkpoint run the same compiled steps and begin with
the same state; they are scored on the parameters in memory, and no checkpoint is written. Several
jobs may work in one folder: a row is leased while it is trained and scored. What a killed job did
not finish is trained again, and only missing tables are scored.
"""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import tqdm

from ttoaa import identity, parquet_io
from ttoaa.author_errors import describe
from ttoaa.checksums import read_record, write_record
from ttoaa.choices import make_choices
from ttoaa.evaluation.checkpoint_outcomes import Scores
from ttoaa.evaluation.work_list import Work, WorkList
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import chooses
from ttoaa.interactions.burst_study import BurstHandle, BurstStudy
from ttoaa.interactions.null_bursts import null_bursts
from ttoaa.locks import LEASE_STALE, Leases
from ttoaa.runs import CONTROL, RUN, RunSpec
from ttoaa.training.controller_loop import ControllerSet
from ttoaa.training.loop import initial_state, train
from ttoaa.training.run_records import LedgerRecord
from ttoaa.training.step import CompiledStep, State
from ttoaa.training.throughput import Ledger
from ttoaa.training_job import check_run, compiled_step, identity_of, make_controls, make_job

SECONDS = "burst.json"
"""File in a row's folder: the seconds that it took, by phase."""
_POLL = 0.2  # seconds


def list_rows(experiments: Sequence[str], leave_one_out: bool = False) -> list[str]:
    """Return the names of the rows: null, each experiment alone, all, and all but one.

    Of two experiments, all but one are one alone.
    """
    several = leave_one_out and len(experiments) > 2
    without = [f"without/{name}" for name in experiments] if several else []
    return [CONTROL, *(f"alone/{name}" for name in experiments), RUN, *without]


def row_seconds(handle: BurstHandle, row: str) -> dict[str, float]:
    """Return the seconds of a row by phase; empty if it is not done."""
    path = handle.workdir.run(row) / SECONDS
    return read_record(path, LedgerRecord, "remove it")["seconds"] if path.exists() else {}


def mean_seconds(handles: Iterable[BurstHandle], rows: Sequence[str]) -> tuple[float, float]:
    """Return the mean seconds that finished rows trained and were scored; nan without any."""
    found = [seconds for handle in handles for row in rows if (seconds := row_seconds(handle, row))]
    train = [seconds["train"] for seconds in found]
    score = [sum(seconds.values()) - seconds["train"] for seconds in found]
    return (statistics.fmean(train), statistics.fmean(score)) if found else (math.nan, math.nan)


@dataclasses.dataclass
class BurstJob:
    """One process that works on the rows of a study of bursts."""

    bursts: BurstStudy
    stale: float = LEASE_STALE
    """Seconds without a heartbeat after which other jobs consider this one dead."""
    trained: int = 0
    """Rows that this job has trained."""
    written: int = 0
    """Tables that it has written."""
    busy: list[str] = dataclasses.field(default_factory=list)
    """Rows that other jobs were working on."""
    failures: list[str] = dataclasses.field(default_factory=list)
    _begun: tuple[State, dict[str, Any]] | None = dataclasses.field(default=None, init=False)

    def run(self, seeds: Sequence[int], rows: Sequence[str]) -> None:
        """Work on the missing rows of these seeds, those of one seed after the other."""
        for seed in seeds:
            handle = self.plan(seed)
            with Leases(handle.workdir.tables / "leases", self.stale) as leases:
                seed_job = _Seed(self, handle, leases)
                for row in rows:
                    seed_job.make(row)

    def run_nulls(self, seed: int, number: int) -> None:
        """Work on the null row of a seed and on null bursts that are scored on its items."""
        self.run([seed], [CONTROL])
        for handle in null_bursts(self.bursts, seed, number):
            with Leases(handle.workdir.tables / "leases", self.stale) as leases:
                _Seed(self, handle, leases).make(CONTROL)

    def plan(self, seed: int) -> BurstHandle:
        """Let experiments choose and make the plan of a seed; wait where another job does so."""
        handle = self.bursts.handle(seed)
        plan = handle.workdir.plan / "plan.json"
        with Leases(handle.workdir.tables / "leases", self.stale) as leases:
            while not leases.acquire("plan"):
                time.sleep(_POLL)
            try:
                if not plan.exists() and any(map(chooses, self.bursts.config.experiments)):
                    for line in make_choices(self.bursts.config, handle.workdir):
                        tqdm.tqdm.write(f"dependence: {line}")
                handle.make_plan()
            finally:
                leases.release("plan")
        return handle

    @functools.cached_property
    def program(self) -> CompiledStep:
        return compiled_step(self.bursts.config)

    def initial(self, made_of: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
        """Return a copy of the state that every row begins with, and the record of its source."""
        if self._begun is None:
            with jax.set_mesh(self.program.mesh):
                source = self.bursts.config.init_from
                self._begun = initial_state(self.program, 0, source, made_of)
        state, record = self._begun
        return jax.tree.map(jnp.copy, state), record


class _Seed:
    """The rows of one seed."""

    def __init__(self, job: BurstJob, handle: BurstHandle, leases: Leases) -> None:
        self.job, self.handle, self.leases = job, handle, leases
        self.scores = Scores(handle)
        self.worklist = WorkList(handle.config, handle.workdir, handle.plan)
        self.steps = handle.config.geometry.steps

    def make(self, row: str) -> None:
        """Train and score a row, unless that is done or another job does it."""
        spec = self.handle.run_spec(row)
        check_run(self.handle, spec)
        controls = make_controls(self.handle, spec)
        made_of = identity_of(self.handle, spec, controls)
        if not self._work(row, made_of).lacking:
            return
        lease = f"{row.replace('/', '+')}-{self.steps:08d}-row"
        if not self.leases.acquire(lease):
            self.job.busy.append(self.handle.workdir.label(row))
            return
        try:
            if (work := self._work(row, made_of)).lacking:  # not made meanwhile
                self._train_and_score(work, lease, spec, controls, made_of)
        finally:
            self.leases.release(lease)

    def _work(self, row: str, made_of: Mapping[str, Any]) -> Work:
        """Return the row with the experiments whose tables are missing."""
        # The folder of the checkpoint decides no bits, and a study may be moved.
        trained = identity.digest({**made_of, "init_from": self.job.bursts.source.sha256})
        experiments = self.handle.config.experiments
        sources = {e.name: {**self.worklist.made_of(e), "checkpoint": trained} for e in experiments}
        work = Work(row, self.steps, (0, 0), sources, experiments)
        lacking = [e for e in experiments if not self.worklist.is_made(work, e)]
        return work._replace(lacking=lacking)

    def _train_and_score(
        self,
        work: Work,
        lease: str,
        spec: RunSpec,
        controls: ControllerSet,
        made_of: Mapping[str, Any],
    ) -> None:
        job, handle, ledger = self.job, self.handle, Ledger()

        def ours() -> bool:
            return self.leases.holds(lease)

        training = make_job(
            handle, spec, controls, made_of, ours, job.program, job.bursts.parent_config
        )
        initial = functools.partial(job.initial, made_of)
        with ledger.phase("train"):
            params = train(dataclasses.replace(training, initial=initial, saves=False))
        job.trained += 1
        params = self.scores.place(params)
        for experiment in work.lacking:
            for failure in self._score(work, experiment, params, ledger, lease):
                job.failures.append(failure)
        write_record(handle.workdir.run(work.kind) / SECONDS, {"seconds": ledger.seconds})

    def _score(
        self, work: Work, experiment: Experiment, params: Any, ledger: Ledger, lease: str
    ) -> Iterator[str]:
        """Write the table of an experiment; yield what failed."""
        name = experiment.name
        try:
            with ledger.phase(f"score/{name}"):
                table = self.scores.table(work, experiment, params, ledger)
            if self.leases.holds(lease):
                path = self.handle.workdir.table(work.kind, work.step, name)
                parquet_io.write_outcomes(table, path, work.sources[name])
                self.job.written += 1
        except Exception as error:  # outcomes of third parties may raise anything
            yield f"{name} on {self.handle.workdir.label(work.kind)}: {describe(error)}"
