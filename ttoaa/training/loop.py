"""The training loop: batches in, records and checkpoints out; killed anywhere, it goes on (C12)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from ttoaa import identity
from ttoaa.model.compute_config import PLAIN
from ttoaa.scoring.likelihood import log_likelihoods, row_losses
from ttoaa.scoring.requests import Request
from ttoaa.training import init_from, skip_policy
from ttoaa.training.checkpoints import CheckpointWriter
from ttoaa.training.controller_loop import ControllerLoop
from ttoaa.training.device_feed import local_rows, place_batch, prefetch
from ttoaa.training.job import Job
from ttoaa.training.metrics_log import MetricsLog
from ttoaa.training.multihost import exiting, from_primary, primary
from ttoaa.training.preemption import StopRequest
from ttoaa.training.step import Metrics
from ttoaa.training.throughput import Attempts, Ledger, Profiler, Speedometer
from ttoaa.training.topology import provenance, topology
from ttoaa.workdir import read_json, write_json, write_text


class Stopped(Exception):
    """The run was asked to stop (SIGTERM); it saved and can be continued."""


AGREED = (Stopped, skip_policy.Refused)
"""What all processes come to together."""


def train(job: Job) -> None:
    """Trains to the last step, from the newest good checkpoint where there is one.

    Raises Stopped after SIGTERM, ValueError where a checkpoint is of another study.
    """
    with jax.set_mesh(job.program.mesh):
        run = _Run(job)
        with StopRequest() as stopping:
            try:
                with exiting("train", *AGREED):
                    run.go(stopping)
            finally:
                try:
                    run.records.close()
                    run.controlling.close()
                finally:
                    # A save in flight is not lost, whatever ends the run, nor by a second SIGTERM.
                    run.writer.finish()
                run.attempts.end()


class _Run:
    def __init__(self, job: Job) -> None:
        self.job, self.program = job, job.program
        self.writer = CheckpointWriter(job.folder / "checkpoints", self.program.training.keep)
        state = self.program.state
        restored = self.writer.restore_newest(
            state["params"], state["opt"], self._check, guard=state["guard"]
        )
        self.fresh = restored is None
        self.source: dict[str, Any] = {}
        if restored is None:
            self.start, seconds, head = self._begin(), {}, None
        else:
            self.start, params, opt, meta, more = restored
            seconds, head = meta["ledger"], meta.get("decisions")
            step = jax.device_put(np.int32(self.start), state["step"].sharding)
            self.state = {"params": params, "opt": opt, **more, "step": step}
        self.controlling = ControllerLoop(job.controls, job.folder, self.start, head)
        self.ledger = Ledger(seconds)
        kept = job.folder if primary() else None
        # A fresh start keeps nothing, not even the records of step 0 of one that was killed.
        self.records = MetricsLog(kept, -1 if self.fresh else self.start)
        self.attempts = Attempts(kept and kept / "attempts.jsonl", self.start, job.began)
        if kept:
            write_text(kept / "config.gin", job.config)
            self._note_start()
        self.saved = -1 if self.fresh else self.start
        self.dispatched: tuple[int, Metrics] | None = None
        geometry = self.program.geometry
        flops = self.program.model.flops_per_token(geometry.length)
        self.speed = Speedometer(geometry.batch * geometry.length, flops)

    def _begin(self) -> int:
        """Makes the first state; returns its step, 0 but where another run is gone on with."""
        job, abstract = self.job, self.program.state
        self.state = self.program.init(job.seed)
        if job.init_from is None:
            return 0
        for replaced in ("params", *(["opt"] if job.init_from.optimizer else [])):
            del self.state[replaced]  # the devices need not hold both
        found = init_from.state(job.init_from, abstract["params"], abstract["opt"], job.identity)
        step = jax.device_put(np.int32(found.step), abstract["step"].sharding)
        opt = self.state["opt"] if found.opt is None else found.opt
        self.state = {**self.state, "params": found.params, "opt": opt, "step": step}
        self.source = found.record
        if primary():
            tqdm.tqdm.write(f"{job.label}: {init_from.described(found.record)}")
        return found.step

    def _topology(self) -> dict[str, Any]:
        program = self.program
        return {**topology(), "mesh": dict(program.mesh.shape), "execution": repr(program.resolved)}

    def _note_start(self) -> None:
        """What began the run stays on record; every later start is added to it."""
        path = self.job.folder / "provenance.json"
        now = {**provenance(), "topology": self._topology()}
        if self.fresh or not path.exists():
            write_json(path, {**now, **self.job.identity, "source": self.source})
            return
        record = read_json(path)
        record.setdefault("continued", []).append({"from_step": self.start, **now})
        write_json(path, record)

    def go(self, stopping: StopRequest) -> None:
        job, steps = self.job, self.job.steps
        with self.ledger.phase("compile"):
            update = self._compile()
        feed = self._feed() if self.start < steps else iter(())
        bar = tqdm.tqdm(
            total=steps,
            initial=self.start,
            desc=job.label,
            unit="step",
            dynamic_ncols=True,
            disable=not primary(),
        )
        with bar, Profiler(job.folder / "profile", job.profile) as profiler:
            for step in range(self.start, steps + 1):
                if step > self.start or self.fresh:
                    self._boundary(step)
                if step == steps:
                    break
                if stopping.received(step):
                    self._save(step)
                    raise Stopped(f"stopped at step {step} of {steps}, saved; run again to go on")
                with self.ledger.phase("step"), profiler.step(step, self.state):
                    _, batch = next(feed)
                    self.state, metrics = update(self.state, batch)
                    previous, self.dispatched = self.dispatched, (step + 1, metrics)
                    # Reading step k's metrics after step k + 1 was dispatched keeps devices busy.
                    loss = self._record(previous)
                if loss is not None:
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
            self.writer.finish()
        if primary():
            self._finished()

    def _compile(self) -> Any:
        return self.program.compile()

    def _feed(self) -> Iterator[tuple[int, dict[str, jax.Array]]]:
        like = self.program.batch
        rows = local_rows(like["tokens"].sharding, like["tokens"].shape)
        batches, boundary = self.job.batches(self.start, rows), self.job.controls.is_boundary
        return prefetch(batches, lambda batch: place_batch(batch, rows, like), boundary)

    def _boundary(self, step: int) -> None:
        """What is done between updates: probes, decisions, validation, then a checkpoint over it.

        So a checkpoint at the beginning of an interval has what was decided for that interval.
        """
        job, last, training = self.job, step == self.job.steps, self.program.training
        due = [(name, probe) for name, probe in job.probes if step in probe.steps]
        deciding = [] if last else self.controlling.due(step)
        validate = last or step % training.validate_every == 0
        due_save = step % training.checkpoint_every == 0 or step in training.keep.milestones
        save = last or (step and due_save)
        self.attempts.beat(step)
        if due or deciding or validate or save:
            self._settle()
            self.speed.pause()
        for name, probe in due:
            with self.ledger.phase(f"probe/{name}"):
                loss = self._row_losses(probe.tokens_NxL)
                self.records.probe(step, name, probe.name, [float(x) for x in loss])
        for name, numbers in deciding:
            with self.ledger.phase(f"probe/{name}"):
                self.controlling.decide(step, numbers, self._log_likelihoods)
        if validate and len(job.validation_NxL):
            with self.ledger.phase("validate"):
                loss = self._row_losses(job.validation_NxL)
                self.records.metrics(step, validation_loss=float(loss.mean(dtype=np.float64)))
        if save:
            self._save(step)

    def _row_losses(self, tokens_NxL: np.ndarray) -> np.ndarray:
        program = self.program
        whole = tokens_NxL.shape[1] == program.geometry.length
        execution = program.resolved if whole else PLAIN
        return row_losses(program.model, self.state["params"], tokens_NxL, execution)

    def _log_likelihoods(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return log_likelihoods(self.program.model, self.state["params"], requests)

    def _save(self, step: int) -> None:
        if step == self.saved:
            return
        self.saved = step
        self._settle()
        from_primary(self._check_ours)
        with self.ledger.phase("checkpoint"):
            self.records.sync()
            meta = {
                "step": step,
                "seed": self.job.seed,
                "identity": dict(self.job.identity),
                "topology": self._topology(),
                "ledger": dict(self.ledger.seconds),
                **self.controlling.meta,
            }
            state = self.state
            self.writer.save(step, state["params"], state["opt"], meta, guard=state["guard"])

    def _check_ours(self) -> None:
        if not self.job.ours():
            raise ValueError(
                f"{self.job.folder} was taken over by another trainer while this one stood still: "
                "the run goes on there"
            )

    def _settle(self) -> None:
        """Waits for the step that was dispatched last, and records it."""
        with self.ledger.phase("step"):
            self._record(self.dispatched)
            self.dispatched = None

    def _record(self, dispatched: tuple[int, Metrics] | None) -> float | None:
        """Reads the metrics of a dispatched step and writes them down; returns its loss."""
        if dispatched is None:
            return None
        step, metrics = dispatched
        values = {name: np.asarray(value) for name, value in metrics.items()}
        sums, counts = values.pop("arm_loss"), values.pop("arm_targets")
        in_a_row = int(values.pop("skipped_in_a_row"))
        scalars = {name: float(value) for name, value in values.items()}
        self.attempts.beat(step)
        goodput = self.attempts.goodput(self.ledger.seconds.get("step", 0.0))
        self.records.metrics(step, **scalars, **self.speed.lap(), **goodput)
        skip_policy.check(self.program.training.guard, step, scalars, in_a_row)
        present = np.flatnonzero(counts)
        self.records.arms(step, {int(a): (float(sums[a]), float(counts[a])) for a in present})
        return scalars["loss"]

    def _check(self, meta: Mapping[str, Any]) -> None:
        identity.check(self.job.folder, meta["identity"], self.job.identity, identity.RETRAIN)
        there, here = meta["topology"], self._topology()
        changed = [f"{n} {there.get(n)} → {here[n]}" for n in here if there.get(n) != here[n]]
        if changed and primary():
            but = ", but for what controllers decide from here" if self.job.controls else ""
            tqdm.tqdm.write(
                f"{self.job.label}: goes on elsewhere than it began ({'; '.join(changed)}): the "
                f"batches are the same{but}, the last bits of the weights may not be"
            )

    def _finished(self) -> None:
        self._check_ours()
        geometry, model = self.program.geometry, self.program.model
        source = read_json(self.job.folder / "provenance.json")["source"]
        before = source["step"] if source.get("continue_step") else 0
        tokens = geometry.tokens // geometry.steps * (geometry.steps - before)
        on_cpu = jax.default_backend() == "cpu"
        write_json(
            self.job.folder / "ledger.json",
            {
                "seconds": self.ledger.seconds,
                **self.attempts.goodput(self.ledger.seconds.get("step", 0.0)),
                "tokens": tokens,
                "flops": tokens * model.flops_per_token(geometry.length),
                # Devices that a CPU is split into are not devices that anybody pays for.
                "devices": jax.process_count() if on_cpu else jax.device_count(),
                "device_kind": jax.devices()[0].device_kind,
                "parameters": model.num_params(),
            },
        )
        finished = {"step": geometry.steps, "identity": dict(self.job.identity)}
        write_json(self.job.folder / "finished.json", finished)
