"""Where the pieces of large work run: in this process, in several here, or as a pipeline of Beam.

A task does one piece at a call and leaves its result in a file, so every engine leaves the same
files, and one goes on where another was stopped.
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
"""Picklable; does the piece of work that its argument names, yields how much of it is done."""

_EVERY = 0.2  # seconds between two reports of a worker


class Engine(Protocol):
    def __call__(self, task: Task, pieces: Sequence[Any]) -> Iterator[int]:
        """Runs the task on all pieces, in any order and place; yields how much is done, for a bar.

        Raises ValueError, one line, for a piece that is at fault itself; OSError where something
        around it failed, so that the same call may succeed later.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """Processes of this machine: one for every core, unless told otherwise; one runs right here.

    Workers are started anew, not forked, and so import the main module: a script that prepares
    several large files must do so under `if __name__ == "__main__":`.
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
    pool = futures.ProcessPoolExecutor(processes, context, _begin, (task, done, stop))
    try:
        waiting = {pool.submit(_work, piece) for piece in pieces}
        while waiting:
            ended, waiting = futures.wait(waiting, _EVERY, futures.FIRST_COMPLETED)
            for future in ended:
                future.result()
            while not done.empty():
                yield done.get()
            # CPython's pool does not watch the worker that it started last.
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


def _begin(task: Task, done: Any, stop: Any) -> None:
    global _task, _done, _stop
    _task, _done, _stop = task, done, stop
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Else a worker whose parent was killed would write on beside whoever comes next."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(piece: Any) -> None:
    amount, reported = 0, time.monotonic()
    with contextlib.closing(_task(piece)) as steps:  # type: ignore[type-var]
        for step in steps:
            amount += step
            if time.monotonic() - reported > _EVERY:
                _done.put(amount)
                amount, reported = 0, time.monotonic()
            if _stop.is_set():
                return
    _done.put(amount)
