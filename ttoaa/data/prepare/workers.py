"""Engines that run the pieces of a large task: in this process, in several, or (data/beam) in Beam.

A call of a task does one piece and writes its result to a file. So all engines write the same
files, and each resumes what another left unfinished.
"""

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ttoaa.processes import run

Task = Callable[[Any], Iterator[int]]
"""Does the piece of work that its argument names, and yields the amounts done, for a bar.

Task and piece must be picklable, and for Beam made of what `data.beam.encode` takes."""

_REPORT_SECONDS = 0.2  # between two reports of a worker


class Engine(Protocol):
    def __call__(self, task: Task, pieces: Sequence[Any]) -> Iterator[int]:
        """Run the task on all pieces, in any order; yields the amounts done.

        Raises ValueError, one line, for a fault of a piece itself; OSError where something around
        it failed, so that the same call may succeed later.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """Processes of this machine, by default one per core; a single one is this process.

    Workers are spawned, not forked, and so import the main module: a script that prepares several
    large files must do so under `if __name__ == "__main__":`.
    """

    processes: int | None = None

    def __call__(self, task: Task, pieces: Sequence[Any]) -> Iterator[int]:
        processes = min(self.processes or len(os.sched_getaffinity(0)), len(pieces))
        if processes <= 1:
            for piece in pieces:
                yield from task(piece)
        else:
            for _, amount in run(functools.partial(_report, task), pieces, processes):
                yield amount


def _report(task: Task, piece: Any) -> Iterator[int]:
    """Yield the amounts that the task does, added up over a fifth of a second."""
    amount, reported = 0, time.monotonic()
    for step in task(piece):
        amount += step
        if time.monotonic() - reported > _REPORT_SECONDS:
            yield amount
            amount, reported = 0, time.monotonic()
    yield amount
