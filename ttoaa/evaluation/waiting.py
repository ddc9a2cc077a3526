"""How long an evaluation job waits, for what, and what it says meanwhile."""

import dataclasses
import time
from typing import Any

import tqdm

from ttoaa.evaluation.progress import span
from ttoaa.leases import STALE
from ttoaa.workdir import RUNS, Workdir

TELL = 60.0
"""Seconds of waiting between two lines about it."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """What a job waits for, and how long."""

    watch: bool = False
    """Until both runs are over, beside what other jobs are at."""
    give_up_after: float | None = None
    """Seconds without news of runs or other jobs; None waits for ever."""
    stale: float = STALE
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
