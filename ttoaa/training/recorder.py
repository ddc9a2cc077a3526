"""Write down a run while it trains: metrics, trackers, time, provenance, and the final records."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import tqdm

from ttoaa.checksums import FileDigest, digest_file, write_record
from ttoaa.training.job import Job
from ttoaa.training.metrics import MetricsLog
from ttoaa.training.multihost import from_primary, writes_records
from ttoaa.training.run_records import (
    ATTEMPTS,
    LEDGER,
    PROVENANCE,
    check_grown,
    read_provenance,
    write_finished,
)
from ttoaa.training.throughput import Attempts, Ledger, Speedometer
from ttoaa.training.topology import provenance
from ttoaa.training.tracker_rows import TrackerRows
from ttoaa.training.trackers import TensorBoard, Tracker, open_tracker
from ttoaa.workdir import write_text


class Recorder:
    """The open records of a run: all processes call it alike, and the primary writes."""

    def __init__(
        self,
        job: Job,
        start: int,
        meta: Mapping[str, Any],
        there: pathlib.Path,
        source: Mapping[str, Any],
        fresh: bool,
    ) -> None:
        """Open the records, truncated to the checkpoint that the run continues.

        Args:
            start: first step.
            meta: of the checkpoint; empty without one.
            there: folder of the run that saved it.
            source: record of what a fresh run began with.
            fresh: whether this run has no checkpoint.

        Raises:
            ValueError: a file is damaged, which the message names, or a tracker does not open.
        """
        self._job, self._fresh = job, fresh
        folder = job.folder if writes_records() else None
        self.ledger = Ledger(None if fresh else meta.get("ledger"))
        kept: dict[str, bytes] = {}
        from_primary(lambda: kept.update(check_grown(there, meta)))
        # A fresh start keeps no records, not even those of step 0 of a run that was killed.
        last = -1 if fresh else start
        self.rows = TrackerRows([], {})
        self.log = MetricsLog(folder, last, kept, lambda name, line: self.rows.add(name, line))
        path = folder and folder / ATTEMPTS
        self.attempts = Attempts(path, start, job.began, resumed=not fresh)
        if folder:
            write_text(folder / "config.gin", job.config)
            self._record_provenance(start, source)
        from_primary(lambda: self._open_trackers(last, start))
        length = job.program.geometry.length
        flops = job.program.model.flops_per_token(length)
        self.speed = Speedometer(job.program.geometry.batch * length, flops)

    def _record_provenance(self, start: int, source: Mapping[str, Any]) -> None:
        """Record versions and topology: of the run's start once, and of every resume."""
        path = self._job.folder / PROVENANCE
        now = {**provenance(), "topology": self._job.topology}
        if self._fresh or not path.exists():
            if self._fresh and self._job.preregistration:
                now["preregistration"] = self._job.preregistration
            write_record(path, {**now, **self._job.identity, "source": source})
            return
        record = read_provenance(self._job.folder)
        continued = [*record.get("continued", []), {"from_step": start, **now}]
        write_record(path, {**record, "continued": continued})

    def _open_trackers(self, last: int, start: int) -> None:
        """Open the trackers, and fill them up from the records before `start`."""
        job = self._job
        opened: list[Tracker] = [TensorBoard(job.folder / "tensorboard", last)]
        try:
            opened += open_tracker(job.folder, job.label, job.identity, job.tracking)
        except ValueError as error:
            if self._fresh:
                raise
            # An outage must not end a run that resumes unattended.
            tqdm.tqdm.write(f"{job.label}: {error}; training continues without it")
        self.rows = TrackerRows(opened, job.tracking.arms)
        self.rows.fill_up(job.folder, start)

    @property
    def goodput(self) -> dict[str, float]:
        """The goodput so far by its name; empty if it is unknown."""
        return self.attempts.goodput(self.ledger.seconds.get("step", 0.0))

    def sync(self) -> None:
        """Put all records on disk, before a checkpoint that relies on them."""
        self.log.sync()
        self.rows.sync()

    def end(self, finished: bool) -> None:
        """Record the end of this process, and close the trackers; `finished`: that of the run."""
        self.attempts.end()
        self.rows.close(finished)

    def digests(self, others: Mapping[str, FileDigest]) -> dict[str, FileDigest]:
        """Return the digest of each file that grows, with those of `others`, after `sync`."""
        own: dict[str, FileDigest] = {}
        if writes_records():
            self.attempts.upload()
            own[ATTEMPTS] = digest_file(self._job.folder / ATTEMPTS)
        return {**self.log.digests, **others, **own}

    def write_final_records(self, others: Mapping[str, FileDigest]) -> None:
        """Write ledger.json and finished.json; `others` are digests of further growing files."""
        self.rows.send()
        program, folder = self._job.program, self._job.folder
        geometry, model = program.geometry, program.model
        source = read_provenance(folder)["source"]
        steps_before = source["step"] if source.get("continue_step") else 0
        tokens = geometry.tokens // geometry.steps * (geometry.steps - steps_before)
        on_cpu = jax.default_backend() == "cpu"
        write_record(
            folder / LEDGER,
            {
                "seconds": self.ledger.seconds,
                **self.goodput,
                "tokens": tokens,
                "flops": tokens * model.flops_per_token(geometry.length),
                # The devices that a CPU is split into are one machine.
                "devices": jax.process_count() if on_cpu else jax.device_count(),
                "device_kind": jax.devices()[0].device_kind,
                "parameters": model.num_params(),
            },
        )
        write_finished(folder, geometry.steps, self._job.identity, {**self.log.digests, **others})
