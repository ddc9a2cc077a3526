"""The training loop: from batches to metrics and checkpoints; resumes after any kill (C12)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from ttoaa import identity
from ttoaa.data.loader import Batch
from ttoaa.model.compute_config import PLAIN
from ttoaa.model.decoder import Params
from ttoaa.planning.noise import NOISE_KEY
from ttoaa.progress import StepProgress
from ttoaa.scoring.likelihood import log_likelihoods, row_losses
from ttoaa.scoring.requests import Request
from ttoaa.training import init_from, skip_policy
from ttoaa.training.checkpoints import CheckpointWriter
from ttoaa.training.controller_loop import ControllerLoop
from ttoaa.training.device_feed import DeviceBatch, local_rows, place_batch, prefetch
from ttoaa.training.init_from import InitFrom
from ttoaa.training.job import Job
from ttoaa.training.metrics import layer_group_norms
from ttoaa.training.multihost import (
    StopRequest,
    exit_on_lone_failure,
    gather,
    writes_records,
)
from ttoaa.training.recorder import Recorder
from ttoaa.training.step import CompiledStep, Metrics, State
from ttoaa.training.throughput import Profiler


class Stopped(Exception):
    """The run received a signal; it saved a checkpoint and can be resumed."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


AGREED = (Stopped, skip_policy.Refused)
"""Exceptions that all processes raise together."""


def train(job: Job) -> Params:
    """Train to the last step, from the newest good checkpoint if there is one.

    Returns the trained parameters.

    Raises:
        Stopped: after a signal.
        ValueError: a checkpoint belongs to another study, or the run cannot continue.
    """
    with jax.set_mesh(job.program.mesh):
        run = _TrainingRun(job)
        finished = False
        with StopRequest() as stop_request:
            try:
                with exit_on_lone_failure("train", *AGREED):
                    run.train(stop_request)
                finished = True
            finally:
                try:
                    run.records.log.close()
                    run.controllers.close()
                finally:
                    run.finish_saving()  # keep a save in flight, whatever ended the run
                run.records.end(finished)
        return run.state["params"]


def initial_state(
    program: CompiledStep, seed: int, source: InitFrom | None, identity: Mapping[str, Any]
) -> tuple[State, dict[str, Any]]:
    """Make the state that a run begins with: new, or that of the checkpoint that it continues.

    Returns it with the record of that checkpoint, which is empty without one. `identity` is the
    run's, with `find_source(...)` as its "init_from". Every process calls it.
    """
    state, abstract = program.init(seed), program.state
    if source is None:
        return state, {}
    for replaced in ("params", *(["opt"] if source.optimizer else [])):
        del state[replaced]  # devices need not hold both
    loaded = init_from.load_source(source, abstract["params"], abstract["opt"], identity)
    step = jax.device_put(np.int32(loaded.step), abstract["step"].sharding)
    opt = state["opt"] if loaded.opt is None else loaded.opt
    return {**state, "params": loaded.params, "opt": opt, "step": step}, loaded.record


class _TrainingRun:
    def __init__(self, job: Job) -> None:
        """Restore the newest checkpoint or make the initial state, and open the records."""
        self.job, self.program = job, job.program
        self.checkpoints: CheckpointWriter | None = None
        self.source: dict[str, Any] = {}
        abstract, restored = self.program.state, None
        if job.saves:
            keep = self.program.training.keep
            self.checkpoints = CheckpointWriter(job.folder / "checkpoints", keep)
            restored = self.checkpoints.restore_newest(
                abstract["params"], abstract["opt"], self._check_resumable, guard=abstract["guard"]
            )
        self.fresh, records = restored is None, job.folder
        if restored is None and job.branch:
            like = {name: abstract[name] for name in ("params", "opt", "guard")}
            restored, records = job.branch.restore(job.folder, like), job.branch.folder
            self.source = job.branch.record
            if writes_records():
                tqdm.tqdm.write(f"{job.label}: continues {job.branch}")
            self._report_topology(restored.meta)
        meta: dict[str, Any] = {}
        if restored is None:
            self.start = self._init_state()
        else:
            self.start, params, opt, meta, more = restored
            step = jax.device_put(np.int32(self.start), abstract["step"].sharding)
            self.state = {"params": params, "opt": opt, **more, "step": step}
        self.saved = -1 if restored is None else self.start
        self.checkpoint_steps = self.program.training.checkpoint_steps(job.steps)
        self.dispatched: tuple[int, Metrics] | None = None
        log_head = meta.get("decisions")
        self.controllers = ControllerLoop(job.controls, job.folder, self.start, log_head)
        self.records = Recorder(job, self.start, meta, records, self.source, self.fresh)

    def _check_resumable(self, meta: Mapping[str, Any]) -> None:
        """Raise ValueError for a checkpoint of another study; print a change of topology."""
        identity.check(self.job.folder, meta["identity"], self.job.identity, identity.RETRAIN)
        self._report_topology(meta)

    def _report_topology(self, meta: Mapping[str, Any]) -> None:
        """Print how the topology differs from that of the checkpoint with this meta."""
        there, here = meta["topology"], self.job.topology
        changed = [f"{n} {there.get(n)} → {here[n]}" for n in here if there.get(n) != here[n]]
        if changed and writes_records():
            but = ", except for controllers' decisions from here on" if self.job.controls else ""
            tqdm.tqdm.write(
                f"{self.job.label}: resumes on another topology ({'; '.join(changed)}): the "
                f"batches are the same{but}, the last bits of the weights may differ"
            )

    def _init_state(self) -> int:
        """Make the initial state; return its step: 0 unless another run is continued."""
        job = self.job
        if job.initial:
            self.state, self.source = job.initial()
            return int(self.state["step"])
        own = self.program, job.seed, job.init_from, job.identity
        self.state, self.source = initial_state(*own)
        if self.source and writes_records():
            tqdm.tqdm.write(f"{job.label}: {init_from.describe_start(self.source)}")
        return int(self.state["step"])

    def train(self, stop_request: StopRequest) -> None:
        """Take all steps that are left, then write the final records."""
        job, steps = self.job, self.job.steps
        progress = StepProgress(job.label, self.start, steps, self._due_steps(), writes_records())
        with progress, Profiler(job.folder / "profile", job.profile) as profiler:
            with self.records.ledger.phase("compile"):
                take_step = self._compile()
            progress.begin()
            batches = self._device_batches() if self.start < steps else iter(())
            for step in range(self.start, steps + 1):
                if step != self.saved:
                    self._between_steps(step)
                if step == steps:
                    break
                if stop_request.received(step):
                    self._save(step)
                    saved = ", saved" if job.saves else ""
                    text = f"stopped at step {step} of {steps}{saved}; run again to resume"
                    raise Stopped(text, stop_request.exit_code)
                with self.records.ledger.phase("step"), profiler.step(step, self.state):
                    _, batch = next(batches)
                    self.state, metrics = take_step(self.state, batch)
                    previous, self.dispatched = self.dispatched, (step + 1, metrics)
                    # Devices stay busy: step k's metrics are read after step k + 1 was dispatched.
                    values = self._record_metrics(previous)
                progress.update(values)
            self.finish_saving()
        self._check_ownership()
        if writes_records():
            self.records.write_final_records(self.controllers.digests)

    def _due_steps(self) -> dict[str, list[int]]:
        """Return the steps of probes and of checkpoints, ascending."""
        probes = {step for _, probe in self.job.probes for step in probe.steps}
        for _, controller in self.job.controls.controllers:
            probes.update(range(0, self.job.steps, controller.every))
        saves = self.checkpoint_steps if self.checkpoints else ()
        return {"probe": sorted(probes), "checkpoint": sorted(saves)}

    def finish_saving(self) -> None:
        """Wait for the save in flight, if there is one."""
        if self.checkpoints:
            self.checkpoints.finish()

    def _compile(self) -> Any:
        """Return step(state, batch); batches with noise run a program compiled for them.

        The plan decides which batches these are, so all processes run the same program.
        """
        plain = self.program.compile()
        if not self.job.noisy:
            return plain
        noisy = self.program.compile(noisy=True)
        return lambda state, batch: (noisy if NOISE_KEY in batch else plain)(state, batch)

    def _device_batches(self) -> Iterator[tuple[int, DeviceBatch]]:
        program, tokens = self.program, self.program.batch["tokens"]
        rows = local_rows(tokens.sharding, tokens.shape)
        batches = self.job.batches(self.start, rows)

        def place(batch: Batch) -> DeviceBatch:
            like = program.noisy_batch if NOISE_KEY in batch else program.batch
            return place_batch(batch, rows, like)

        return prefetch(batches, place, self.job.controls.is_boundary)

    def _between_steps(self, step: int) -> None:
        """Run what is due before `step`: probes, controllers, validation, then a checkpoint.

        A checkpoint at the start of an interval so holds the decisions for that interval.
        """
        job, last = self.job, step == self.job.steps
        probes = [(name, probe) for name, probe in job.probes if step in probe.steps]
        deciding = [] if last else self.controllers.due(step)
        validate = last or step % self.program.training.validate_every == 0
        save = step in self.checkpoint_steps
        self.records.attempts.beat(step)
        if probes or deciding or validate or save:
            self._record_last_step()
            self.records.speed.pause()
        for name, probe in probes:
            with self.records.ledger.phase(f"probe/{name}"):
                loss = self._row_losses(probe.tokens_NxL)
                self.records.log.probe(step, name, probe.name, [float(x) for x in loss])
        for name, numbers in deciding:
            with self.records.ledger.phase(f"probe/{name}"):
                self.controllers.decide(step, numbers, self._log_likelihoods)
        if validate and len(job.validation_NxL):
            with self.records.ledger.phase("validate"):
                loss_N = self._row_losses(job.validation_NxL)
                norms = layer_group_norms(self.state["params"])
                values = {name: float(norm) for name, norm in norms.items()}
                mean_loss = float(loss_N.mean(dtype=np.float64))
                self.records.log.metrics(step, validation_loss=mean_loss, **values)
        if save:
            self._save(step)

    def _row_losses(self, tokens_NxL: np.ndarray) -> np.ndarray:
        program = self.program
        training_length = tokens_NxL.shape[1] == program.geometry.length
        execution = program.resolved if training_length else PLAIN
        return row_losses(program.model, self.state["params"], tokens_NxL, execution)

    def _log_likelihoods(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return log_likelihoods(self.program.model, self.state["params"], requests)

    def _save(self, step: int) -> None:
        if step == self.saved or self.checkpoints is None:
            return
        self.saved = step
        self._record_last_step()
        self._check_ownership()
        with self.records.ledger.phase("checkpoint"):
            self.records.sync()
            self.controllers.sync()
            meta = {
                "step": step,
                "seed": self.job.seed,
                "identity": dict(self.job.identity),
                "topology": self.job.topology,
                "ledger": dict(self.records.ledger.seconds),
                "records": self.records.digests(self.controllers.digests),
                **self.controllers.meta,
            }
            state = self.state
            self.checkpoints.save(step, state["params"], state["opt"], meta, guard=state["guard"])

    def _check_ownership(self) -> None:
        """Raise ValueError if another trainer has taken the run over; every process calls it."""
        if any(gather("" if self.job.ours() else "lost")):  # one process holds the run's lock
            raise ValueError(
                f"{self.job.folder} was taken over by another trainer while this one was "
                "suspended: let that one continue"
            )

    def _record_last_step(self) -> None:
        """Wait for the step that was dispatched last, and record its metrics."""
        with self.records.ledger.phase("step"):
            self._record_metrics(self.dispatched)
            self.dispatched = None

    def _record_metrics(self, dispatched: tuple[int, Metrics] | None) -> dict[str, float]:
        """Read the metrics of a dispatched step and record them; return loss and speed."""
        if dispatched is None:
            return {}
        step, metrics = dispatched
        values = {name: np.asarray(value) for name, value in metrics.items()}
        sums, counts = values.pop("arm_loss"), values.pop("arm_targets")
        skipped_in_a_row = int(values.pop("skipped_in_a_row"))
        scalars = {name: float(value) for name, value in values.items()}
        self.records.attempts.beat(step)
        speed = self.records.speed.lap()
        self.records.log.metrics(step, **scalars, **speed, **self.records.goodput)
        skip_policy.check(self.program.training.guard, step, scalars, skipped_in_a_row)
        present = np.flatnonzero(counts)
        self.records.log.arms(step, {int(a): (float(sums[a]), float(counts[a])) for a in present})
        return {"loss": scalars["loss"], **speed}
