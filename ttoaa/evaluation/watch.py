"""Follow runs while they train: their progress, and how long an evaluation job waits for them.

Progress is read from records and leases; JAX is not initialised.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import tqdm

from ttoaa import shared_files
from ttoaa.locks import LEASE_STALE, running_trainer
from ttoaa.training.run_records import ATTEMPTS, FINISHED, read_finished
from ttoaa.training.throughput import read_attempts
from ttoaa.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of one run, whose trainer records its step about every half minute."""

    run: str
    step: int | None
    """The last step, or the last recorded one; None before the first record."""
    quiet: float | None
    """Seconds since that record; None without one, and for a finished run."""
    finished: bool
    training: bool
    """Whether a live trainer holds the run."""

    def __str__(self) -> str:
        if self.finished:
            return f"{self.run} is finished"
        if self.step is None or self.quiet is None:
            return f"{self.run} is starting" if self.training else f"{self.run} has not begun"
        text = f"{self.run} was at step {self.step:,} {span(self.quiet)} ago"
        return text if self.training else f"{text}, and no trainer is running"


def progress(workdir: Workdir, more: Sequence[str] = ()) -> dict[str, Progress]:
    """Return the progress, by name, of both standard runs, other existing runs, and `more`."""
    names = dict.fromkeys([*workdir.runs(), *more])
    return {name: progress_of(workdir, name) for name in names}


def progress_of(workdir: Workdir, name: str) -> Progress:
    """Return the progress of one run."""
    folder, label = workdir.run(name), workdir.label(name)
    if finished := read_finished(folder):
        return Progress(label, finished["step"], None, True, False)
    lines = read_attempts(folder / ATTEMPTS)
    step = lines[-1]["step"] if lines else None
    quiet = max(0.0, time.time() - lines[-1]["time"]) if lines else None
    return Progress(label, step, quiet, False, running_trainer(folder) is not None)


def span(seconds: float) -> str:
    """Format a duration: 40 s, 12 min, 3 h, 2 days."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


REPORT_EVERY = 60.0
"""Seconds between two lines that say what a job waits for."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a job waits for new work."""

    watch: bool = False
    """Wait until all runs have ended and other jobs have finished their tables."""
    give_up_after: float | None = None
    """Seconds without news of runs or other jobs; None waits indefinitely."""
    stale: float = LEASE_STALE
    """Seconds without a heartbeat after which others consider this job dead."""
    poll: float = 2.0
    """Seconds between two polls."""


class GaveUp(ValueError):
    """There was no news for as long as the job should wait."""


class Waiting:
    """Sleep between polls, report what is awaited, and give up after a limit."""

    def __init__(self, workdir: Workdir, patience: Patience) -> None:
        self.workdir, self.patience, self.watch = workdir, patience, patience.watch
        self._news: Any = None
        self._since = self._reported = time.monotonic()

    def restart(self) -> None:
        """Reset the limit: there is news that no run shows, such as a table or a live job."""
        self._since = time.monotonic()

    def on(self, what: str) -> None:
        """Sleep for one poll; raise GaveUp after too long without news."""
        now, limit = time.monotonic(), self.patience.give_up_after
        news = [_stamps(self.workdir, kind) for kind in self.workdir.runs()]
        if news != self._news:
            self._news, self._since = news, now
        if limit is not None and now - self._since > limit:
            raise GaveUp(f"gave up after {span(limit)} without news, waiting for {what}")
        if now - self._reported >= REPORT_EVERY:
            self._reported = now
            tqdm.tqdm.write(f"evaluate: waiting for {what}")
        time.sleep(self.patience.poll)


def _stamps(workdir: Workdir, kind: str) -> list[Any]:
    """Values that change when a run progresses."""
    run = workdir.run(kind)
    files = [run / ATTEMPTS, run / FINISHED, workdir.plan / "plan.json"]
    times = [path.stat().st_mtime_ns if path.exists() else 0 for path in files]
    return [*times, sorted(shared_files.names(run / "checkpoints"))]
