"""The training loop: batches in, records and checkpoints out; killed anywhere, it goes on (C12)."""

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from ttoaa.data.geometry import Geometry
from ttoaa.data.loader import Batch
from ttoaa.experiments.base import Probe
from ttoaa.model.decoder import DecoderConfig
from ttoaa.scoring.likelihood import row_losses
from ttoaa.training.checkpoints import Writer
from ttoaa.training.config import Training
from ttoaa.training.ledger import Ledger
from ttoaa.training.records import Records
from ttoaa.training.step import Metrics, State, init_state, make_step
from ttoaa.training.topology import microbatch_rows, peak_flops, provenance, topology
from ttoaa.workdir import read_json, write_json, write_text

ProbeList = Sequence[tuple[str, Probe]]
"""(experiment, probe) pairs."""


class Stopped(Exception):
    """The run was asked to stop (SIGTERM); it saved and can be continued."""


@dataclasses.dataclass(frozen=True)
class Job:
    """All that one training run needs, resolved."""

    folder: pathlib.Path
    seed: int
    geometry: Geometry
    model: DecoderConfig
    training: Training
    identity: Mapping[str, str]
    """Fingerprints of what decides the batches and the numerics: a checkpoint must agree."""
    batches: Callable[[int], Iterator[Batch]]
    """The loader from a step on."""
    probes: ProbeList
    validation_NxL: np.ndarray
    label: str
    config: str = ""
    """The resolved gin config, kept beside the records."""


def train(job: Job) -> None:
    """Trains to the last step, from the newest good checkpoint where there is one.

    Raises Stopped after SIGTERM, ValueError where a checkpoint is of another study.
    """
    run = _Run(job)
    try:
        with _sigterm() as asked:
            run.go(lambda: bool(asked))
    finally:
        run.records.close()
        run.writer.finish()  # a save in flight is not lost, whatever ends the run


class _Run:
    def __init__(self, job: Job) -> None:
        self.job = job
        steps = job.geometry.steps
        self.optimizer = job.training.optimizer.over(steps)
        self.writer = Writer(job.folder / "checkpoints")
        abstract = jax.eval_shape(lambda: init_state(job.model, self.optimizer, job.seed))
        found = self.writer.restore_newest(abstract["params"], abstract["opt"], self._check)
        if found is None:
            self.start, self.fresh, seconds = 0, True, {}
            self.state: State = jax.jit(lambda: init_state(job.model, self.optimizer, job.seed))()
        else:
            self.start, params, opt, meta = found
            self.fresh, seconds = False, meta["ledger"]
            step = jax.numpy.asarray(self.start, jax.numpy.int32)
            self.state = {"params": params, "opt": opt, "step": step}
        write_text(job.folder / "config.gin", job.config)
        self._note_start()
        self.ledger = Ledger(seconds)
        # A fresh start keeps nothing, not even the records of step 0 of one that was killed.
        self.records = Records(job.folder, -1 if self.fresh else self.start)
        self.saved = -1 if self.fresh else self.start
        self.dispatched: tuple[int, Metrics] | None = None
        self.last_read: float | None = None
        self.flops = job.model.flops_per_token(job.geometry.length)

    def _note_start(self) -> None:
        """What began the run stays on record; every later start is added to it."""
        path, now = self.job.folder / "provenance.json", provenance()
        if self.fresh or not path.exists():
            write_json(path, {**now, **self.job.identity})
            return
        record = read_json(path)
        record.setdefault("continued", []).append({"from_step": self.start, **now})
        write_json(path, record)

    def go(self, asked_to_stop: Callable[[], bool]) -> None:
        job, steps = self.job, self.job.geometry.steps
        with self.ledger.phase("compile"):
            update = self._compile()
        batches = job.batches(self.start) if self.start < steps else iter(())
        bar = tqdm.tqdm(
            total=steps, initial=self.start, desc=job.label, unit="step", dynamic_ncols=True
        )
        with bar:
            for step in range(self.start, steps + 1):
                if step > self.start or self.fresh:
                    self._boundary(step)
                if step == steps:
                    break
                if asked_to_stop():
                    self._save(step)
                    raise Stopped(f"stopped at step {step} of {steps}, saved; run again to go on")
                with self.ledger.phase("step"):
                    batch = next(batches)
                    tokens, arms = batch["tokens"], batch["arms"].astype(np.int32)
                    self.state, metrics = update(self.state, tokens, arms)
                    previous, self.dispatched = self.dispatched, (step + 1, metrics)
                    # Reading step k's metrics after step k + 1 was dispatched keeps devices busy.
                    loss = self._record(previous)
                if loss is not None:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
            self.writer.finish()
        self._finished()

    def _compile(self) -> Any:
        job, geometry = self.job, self.job.geometry
        microbatch = microbatch_rows(job.training.microbatch, geometry.batch)
        step = make_step(job.model, job.training, self.optimizer, microbatch, geometry.steps)
        shape = (geometry.batch, geometry.length)
        rows = jax.ShapeDtypeStruct(shape, np.int32)
        return jax.jit(step, donate_argnums=0).lower(self.state, rows, rows).compile()

    def _boundary(self, step: int) -> None:
        """What is done between updates: probes, validation, and then the checkpoint over it."""
        job, last = self.job, step == self.job.geometry.steps
        due = [(name, probe) for name, probe in job.probes if step in probe.steps]
        validate = last or step % job.training.validate_every == 0
        save = last or (step and step % job.training.checkpoint_every == 0)
        if due or validate or save:
            with self.ledger.phase("step"):
                self._record(self.dispatched)
                self.dispatched = None
            self.last_read = None  # what comes now is not the step's time
        for name, probe in due:
            with self.ledger.phase(f"probe/{name}"):
                loss = row_losses(job.model, self.state["params"], probe.tokens_NxL)
                self.records.probe(step, name, probe.name, [float(x) for x in loss])
        if validate and len(job.validation_NxL):
            with self.ledger.phase("validate"):
                loss = row_losses(job.model, self.state["params"], job.validation_NxL)
                self.records.metrics(step, validation_loss=float(loss.mean(dtype=np.float64)))
        if save:
            self._save(step)

    def _save(self, step: int) -> None:
        if step == self.saved:
            return
        self.saved = step
        with self.ledger.phase("step"):
            self._record(self.dispatched)
            self.dispatched = None
        with self.ledger.phase("checkpoint"):
            self.records.sync()
            meta = {
                "step": step,
                "seed": self.job.seed,
                "identity": dict(self.job.identity),
                "topology": topology(),
                "ledger": dict(self.ledger.seconds),
            }
            self.writer.save(step, self.state["params"], self.state["opt"], meta)

    def _record(self, dispatched: tuple[int, Metrics] | None) -> float | None:
        """Reads the metrics of a dispatched step and writes them down; returns its loss."""
        if dispatched is None:
            return None
        step, metrics = dispatched
        values = {name: np.asarray(value) for name, value in metrics.items()}
        sums, counts = values.pop("arm_loss"), values.pop("arm_targets")
        scalars = {name: float(value) for name, value in values.items()}
        for name in ("loss", "grad_norm"):
            if not np.isfinite(scalars[name]):
                raise ValueError(
                    f"{name} of step {step} is {scalars[name]}: lower the peak learning rate; "
                    f"the newest checkpoint in {self.job.folder} is from before"
                )
        self.records.metrics(step, **scalars, **self._speed())
        present = np.flatnonzero(counts)
        self.records.arms(step, {int(a): (float(sums[a]), float(counts[a])) for a in present})
        return scalars["loss"]

    def _speed(self) -> dict[str, float]:
        """Over the time between two reads of the device; MFU only where its peak is known."""
        now, before = time.perf_counter(), self.last_read
        self.last_read = now
        if before is None:
            return {}
        rate = self.job.geometry.batch * self.job.geometry.length / (now - before)
        peak = peak_flops()
        return {"tokens_per_second": rate, **({"mfu": rate * self.flops / peak} if peak else {})}

    def _check(self, meta: Mapping[str, Any]) -> None:
        check_identity(self.job.folder, meta["identity"], self.job.identity)
        if meta["topology"] != topology():
            tqdm.tqdm.write(
                f"going on with {topology()} what {meta['topology']} began: the batches are the "
                "same, the last bits of the weights may not be"
            )

    def _finished(self) -> None:
        geometry, model = self.job.geometry, self.job.model
        write_json(
            self.job.folder / "ledger.json",
            {
                "seconds": self.ledger.seconds,
                "tokens": geometry.tokens,
                "flops": geometry.tokens * self.flops,
                "devices": jax.device_count(),
                "device_kind": jax.devices()[0].device_kind,
                "parameters": model.num_params(),
            },
        )
        finished = {"step": geometry.steps, "identity": dict(self.job.identity)}
        write_json(self.job.folder / "finished.json", finished)


def check_identity(folder: pathlib.Path, made: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raises ValueError where a run was made with another corpus, plan, model, … than `ours`."""
    for name, value in ours.items():
        if made.get(name) != value:
            raise ValueError(
                f"{folder} was made with {name} {made.get(name)}, now it would be {value}: use "
                "another --workdir, or move that folder away and train again"
            )


@contextlib.contextmanager
def _sigterm() -> Iterator[list[int]]:
    """A list that is no longer empty once SIGTERM came: preemption saves at the next step."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
