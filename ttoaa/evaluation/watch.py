"""How far a study's runs are, from their records and leases alone: nothing here starts JAX.

How long an evaluation job waits, for what, and what it says meanwhile.
"""

import dataclasses
import time
from typing import Any

import tqdm

from ttoaa.locks import LEASE_STALE, running_trainer
from ttoaa.workdir import RUNS, Workdir, read_json, read_json_lines


@dataclasses.dataclass(frozen=True)
class Progress:
    """One run. Its trainer notes a step and the time every half minute or so."""

    run: str
    step: int | None
    """Of the last note; None where there is none yet."""
    quiet: float | None
    """Seconds since then."""
    finished: bool
    training: bool
    """Whether a trainer that lives has it in hand."""

    def __str__(self) -> str:
        if self.finished:
            return f"{self.run} is finished"
        if self.step is None or self.quiet is None:
            return f"{self.run} is starting" if self.training else f"{self.run} has not begun"
        told = f"{self.run} was at step {self.step:,} {span(self.quiet)} ago"
        return told if self.training else f"{told}, and nobody trains it"


def progress(workdir: Workdir) -> dict[str, Progress]:
    """Of the control run and the run."""
    found = {}
    for kind in RUNS:
        folder = workdir.run(kind)
        lines = read_json_lines(folder / "attempts.jsonl")
        step = lines[-1]["step"] if lines else None
        quiet = max(0.0, time.time() - lines[-1]["time"]) if lines else None
        finished = folder / "finished.json"
        if finished.exists():
            step = read_json(finished)["step"]
        training = not finished.exists() and running_trainer(folder) is not None
        found[kind] = Progress(folder.name, step, quiet, finished.exists(), training)
    return found


def span(seconds: float) -> str:
    """A duration as one reads it: 40 s, 12 min, 3 h, 2 days."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


TELL = 60.0
"""Seconds of waiting between two lines about it."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """What a job waits for, and how long."""

    watch: bool = False
    """Until both runs are over, beside what other jobs are at."""
    give_up_after: float | None = None
    """Seconds without news of runs or other jobs; None waits for ever."""
    stale: float = LEASE_STALE
    """Seconds without a sign of life after which this job counts as dead."""
    poll: float = 2.0
    """Seconds between two looks."""


class GaveUp(ValueError):
    """Nothing happened for as long as the job was to wait."""


class Waiting:
    """Sleeps between two looks, says now and then for what, and gives up when asked to."""

    def __init__(self, workdir: Workdir, patience: Patience) -> None:
        self.workdir, self.patience, self.watch = workdir, patience, patience.watch
        self._news: Any = None
        self._since = self._told = time.monotonic()

    def restart(self) -> None:
        """There is news that no run shows: a table, another job that lives."""
        self._since = time.monotonic()

    def on(self, what: str) -> None:
        """Raises GaveUp where there has been no news of anything for too long."""
        now, limit = time.monotonic(), self.patience.give_up_after
        news = [_stamps(self.workdir, kind) for kind in RUNS]
        if news != self._news:
            self._news, self._since = news, now
        if limit is not None and now - self._since > limit:
            raise GaveUp(f"gave up after {span(limit)} without news, waiting for {what}")
        if now - self._told >= TELL:
            self._told = now
            tqdm.tqdm.write(f"evaluate: waits for {what}")
        time.sleep(self.patience.poll)


def _stamps(workdir: Workdir, kind: str) -> list[Any]:
    """What changes when a run goes on."""
    run = workdir.run(kind)
    files = [run / "attempts.jsonl", run / "finished.json", workdir.plan / "plan.json"]
    times = [path.stat().st_mtime_ns if path.exists() else 0 for path in files]
    return [*times, sorted(path.name for path in (run / "checkpoints").glob("*"))]
