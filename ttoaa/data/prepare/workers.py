"""Engines that run the pieces of a large task: in this process, in several, or (data/beam) in Beam.

A call of a task does one piece and writes its result to a file. So all engines write the same
files, and each resumes what another left unfinished.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, Protocol

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
            yield from _in_processes(task, pieces, processes)


def _in_processes(task: Task, pieces: Sequence[Any], processes: int) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    done, stop = context.SimpleQueue(), context.Event()
    pool = futures.ProcessPoolExecutor(processes, context, _start_worker, (task, done, stop))
    try:
        waiting = {pool.submit(_run_piece, piece) for piece in pieces}
        while waiting:
            ended, waiting = futures.wait(waiting, _REPORT_SECONDS, futures.FIRST_COMPLETED)
            for future in ended:
                future.result()
            while not done.empty():
                yield done.get()
            # CPython's pool does not notice the death of the worker that it started last.
            if any(worker.exitcode for worker in [*(pool._processes or {}).values()]):
                raise futures.process.BrokenProcessPool
    except futures.process.BrokenProcessPool as error:
        raise OSError("a worker process died: was it out of memory? Start again") from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_task: Task
_done: Any
_stop: Any


def _start_worker(task: Task, done: Any, stop: Any) -> None:
    global _task, _done, _stop
    _task, _done, _stop = task, done, stop
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this worker when its parent is killed, so that it does not write next to a new one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run_piece(piece: Any) -> None:
    amount, reported = 0, time.monotonic()
    with contextlib.closing(_task(piece)) as steps:  # type: ignore[type-var]
        for step in steps:
            amount += step
            if time.monotonic() - reported > _REPORT_SECONDS:
                _done.put(amount)
                amount, reported = 0, time.monotonic()
            if _stop.is_set():
                return
    _done.put(amount)
