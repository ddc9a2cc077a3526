"""The training loop: from batches to metrics and checkpoints; resumes after any kill (C12)."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from ttoaa import bucket, identity
from ttoaa.checksums import FileDigest, digest_file, write_record
from ttoaa.data.loader import Batch
from ttoaa.experiments.context import ProbeList
from ttoaa.model.compute_config import PLAIN
from ttoaa.model.decoder import Params
from ttoaa.planning.noise import NOISE_KEY
from ttoaa.progress import progress_bar
from ttoaa.scoring.likelihood import log_likelihoods, row_losses
from ttoaa.scoring.requests import Request
from ttoaa.training import init_from, skip_policy
from ttoaa.training.branch import Branch
from ttoaa.training.checkpoints import CheckpointWriter
from ttoaa.training.controller_loop import ControllerLoop, ControllerSet
from ttoaa.training.device_feed import DeviceBatch, local_rows, place_batch, prefetch
from ttoaa.training.init_from import InitFrom
from ttoaa.training.metrics import MetricsLog, layer_group_norms
from ttoaa.training.multihost import (
    StopRequest,
    exit_on_lone_failure,
    from_primary,
    gather,
    writes_records,
)
from ttoaa.training.run_records import (
    ATTEMPTS,
    LEDGER,
    PROVENANCE,
    check_grown,
    read_provenance,
    write_finished,
)
from ttoaa.training.step import CompiledStep, Metrics, State
from ttoaa.training.throughput import Attempts, Ledger, Profiler, Speedometer
from ttoaa.training.topology import provenance, topology
from ttoaa.workdir import write_text


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything that one training run needs, resolved."""

    folder: pathlib.Path
    seed: int
    program: CompiledStep
    identity: Mapping[str, Any]
    """What decides the batches and the numerics; a checkpoint must have the same."""
    batches: Callable[[int, np.ndarray], Iterator[Batch]]
    """The loader, from (first step, rows of each batch). A batch with slots is requested only
    after the controllers decided."""
    probes: ProbeList
    validation_NxL: np.ndarray
    label: str
    controls: ControllerSet = dataclasses.field(default_factory=ControllerSet)
    noisy: bool = False
    """Whether some batches have noise, which takes a second program."""
    init_from: InitFrom | None = None
    branch: Branch | None = None
    """The checkpoint of another run that this run continues."""
    config: str = ""
    """The resolved gin config, stored next to the records."""
    profile: range = range(0)
    """Steps to trace."""
    began: float | None = None
    """time.time() when the process began, for the goodput; by default now."""
    ours: Callable[[], bool] = lambda: True
    """Whether no other trainer has taken the run over; processes ask before a save."""
    initial: Callable[[], tuple[State, dict[str, Any]]] | None = None
    """Returns the state that the run begins with, as `initial_state` does, which is the default.
    Its arrays are donated to the first step."""
    saves: bool = True
    """Whether checkpoints are saved. Otherwise a run that ends early begins again."""

    @property
    def steps(self) -> int:
        return self.program.geometry.steps


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
        with StopRequest() as stop_request:
            try:
                with exit_on_lone_failure("train", *AGREED):
                    run.train(stop_request)
            finally:
                try:
                    run.metrics_log.close()
                    run.controllers.close()
                finally:
                    run.finish_saving()  # keep a save in flight, whatever ended the run
                run.attempts.end()
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
        self.dispatched: tuple[int, Metrics] | None = None
        log_head = meta.get("decisions")
        self.controllers = ControllerLoop(job.controls, job.folder, self.start, log_head)
        self._open_records(meta, records)

    def _check_resumable(self, meta: Mapping[str, Any]) -> None:
        """Raise ValueError for a checkpoint of another study; print a change of topology."""
        identity.check(self.job.folder, meta["identity"], self.job.identity, identity.RETRAIN)
        self._report_topology(meta)

    def _report_topology(self, meta: Mapping[str, Any]) -> None:
        """Print how the topology differs from that of the checkpoint with this meta."""
        there, here = meta["topology"], self._topology()
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

    def _open_records(self, meta: Mapping[str, Any], there: pathlib.Path) -> None:
        """Open the records, truncated to the checkpoint with this meta (empty without one).

        `there` is the folder of the run that saved it. Raises ValueError, naming the file, if one
        is damaged.
        """
        job, program = self.job, self.program
        folder = job.folder if writes_records() else None
        self.ledger = Ledger(None if self.fresh else meta.get("ledger"))
        kept: dict[str, bytes] = {}
        from_primary(lambda: kept.update(check_grown(there, meta)))
        # A fresh start keeps no records, not even those of step 0 of a run that was killed.
        self.metrics_log = MetricsLog(folder, -1 if self.fresh else self.start, kept)
        path = folder and folder / ATTEMPTS
        self.attempts = Attempts(path, self.start, job.began, resumed=not self.fresh)
        if folder:
            write_text(folder / "config.gin", job.config)
            self._record_provenance()
        length = program.geometry.length
        flops = program.model.flops_per_token(length)
        self.speed = Speedometer(program.geometry.batch * length, flops)

    def _record_provenance(self) -> None:
        """Record versions and topology: of the run's start once, and of every resume."""
        path = self.job.folder / PROVENANCE
        now = {**provenance(), "topology": self._topology()}
        if self.fresh or not path.exists():
            write_record(path, {**now, **self.job.identity, "source": self.source})
            return
        record = read_provenance(self.job.folder)
        continued = [*record.get("continued", []), {"from_step": self.start, **now}]
        write_record(path, {**record, "continued": continued})

    def _topology(self) -> dict[str, Any]:
        program = self.program
        return {**topology(), "mesh": dict(program.mesh.shape), "execution": repr(program.resolved)}

    def train(self, stop_request: StopRequest) -> None:
        """Take all steps that are left, then write the final records."""
        job, steps = self.job, self.job.steps
        with self.ledger.phase("compile"):
            take_step = self._compile()
        batches = self._device_batches() if self.start < steps else iter(())
        bar = progress_bar(
            total=steps,
            initial=self.start,
            desc=job.label,
            unit="step",
            disable=not writes_records(),
        )
        with bar, Profiler(job.folder / "profile", job.profile) as profiler:
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
                with self.ledger.phase("step"), profiler.step(step, self.state):
                    _, batch = next(batches)
                    self.state, metrics = take_step(self.state, batch)
                    previous, self.dispatched = self.dispatched, (step + 1, metrics)
                    # Devices stay busy: step k's metrics are read after step k + 1 was dispatched.
                    loss = self._record_metrics(previous)
                if loss is not None:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
            self.finish_saving()
        self._check_ownership()
        if writes_records():
            self._write_final_records()

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
        job, last, training = self.job, step == self.job.steps, self.program.training
        probes = [(name, probe) for name, probe in job.probes if step in probe.steps]
        deciding = [] if last else self.controllers.due(step)
        validate = last or step % training.validate_every == 0
        save_due = step % training.checkpoint_every == 0 or step in training.keep.milestones
        save = last or (step and save_due)
        self.attempts.beat(step)
        if probes or deciding or validate or save:
            self._record_last_step()
            self.speed.pause()
        for name, probe in probes:
            with self.ledger.phase(f"probe/{name}"):
                loss = self._row_losses(probe.tokens_NxL)
                self.metrics_log.probe(step, name, probe.name, [float(x) for x in loss])
        for name, numbers in deciding:
            with self.ledger.phase(f"probe/{name}"):
                self.controllers.decide(step, numbers, self._log_likelihoods)
        if validate and len(job.validation_NxL):
            with self.ledger.phase("validate"):
                loss_N = self._row_losses(job.validation_NxL)
                norms = layer_group_norms(self.state["params"])
                values = {name: float(norm) for name, norm in norms.items()}
                mean_loss = float(loss_N.mean(dtype=np.float64))
                self.metrics_log.metrics(step, validation_loss=mean_loss, **values)
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
        with self.ledger.phase("checkpoint"):
            self.metrics_log.sync()
            self.controllers.sync()
            meta = {
                "step": step,
                "seed": self.job.seed,
                "identity": dict(self.job.identity),
                "topology": self._topology(),
                "ledger": dict(self.ledger.seconds),
                "records": self._digests(),
                **self.controllers.meta,
            }
            state = self.state
            self.checkpoints.save(step, state["params"], state["opt"], meta, guard=state["guard"])

    def _digests(self) -> dict[str, FileDigest]:
        own: dict[str, FileDigest] = {}
        if writes_records():
            attempts = self.job.folder / ATTEMPTS
            bucket.upload(attempts)
            own[ATTEMPTS] = digest_file(attempts)
        return {**self.metrics_log.digests, **self.controllers.digests, **own}

    def _check_ownership(self) -> None:
        """Raise ValueError if another trainer has taken the run over; every process calls it."""
        if any(gather("" if self.job.ours() else "lost")):  # one process holds the run's lock
            raise ValueError(
                f"{self.job.folder} was taken over by another trainer while this one was "
                "suspended: let that one continue"
            )

    def _record_last_step(self) -> None:
        """Wait for the step that was dispatched last, and record its metrics."""
        with self.ledger.phase("step"):
            self._record_metrics(self.dispatched)
            self.dispatched = None

    def _record_metrics(self, dispatched: tuple[int, Metrics] | None) -> float | None:
        """Read the metrics of a dispatched step and record them; return its loss."""
        if dispatched is None:
            return None
        step, metrics = dispatched
        values = {name: np.asarray(value) for name, value in metrics.items()}
        sums, counts = values.pop("arm_loss"), values.pop("arm_targets")
        skipped_in_a_row = int(values.pop("skipped_in_a_row"))
        scalars = {name: float(value) for name, value in values.items()}
        self.attempts.beat(step)
        self.metrics_log.metrics(step, **scalars, **self.speed.lap(), **self._goodput())
        skip_policy.check(self.program.training.guard, step, scalars, skipped_in_a_row)
        present = np.flatnonzero(counts)
        self.metrics_log.arms(step, {int(a): (float(sums[a]), float(counts[a])) for a in present})
        return scalars["loss"]

    def _goodput(self) -> dict[str, float]:
        return self.attempts.goodput(self.ledger.seconds.get("step", 0.0))

    def _write_final_records(self) -> None:
        geometry, model = self.program.geometry, self.program.model
        source = read_provenance(self.job.folder)["source"]
        steps_before = source["step"] if source.get("continue_step") else 0
        tokens = geometry.tokens // geometry.steps * (geometry.steps - steps_before)
        on_cpu = jax.default_backend() == "cpu"
        write_record(
            self.job.folder / LEDGER,
            {
                "seconds": self.ledger.seconds,
                **self._goodput(),
                "tokens": tokens,
                "flops": tokens * model.flops_per_token(geometry.length),
                # The devices that a CPU is split into are one machine.
                "devices": jax.process_count() if on_cpu else jax.device_count(),
                "device_kind": jax.devices()[0].device_kind,
                "parameters": model.num_params(),
            },
        )
        grown = {**self.metrics_log.digests, **self.controllers.digests}
        write_finished(self.job.folder, geometry.steps, self.job.identity, grown)
