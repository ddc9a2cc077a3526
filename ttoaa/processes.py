"""Run the pieces of a task in several worker processes, which end with this process.

A worker shares only a pipe with its parent, so a stop at any moment leaves no semaphores behind.
Ctrl-C in a terminal reaches only the parent, which ends its workers.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from ttoaa import signals

_SECONDS_TO_END = 5.0
_DONE = "done"


def run(
    function: Callable[[Any], Iterable[Any]], pieces: Sequence[Any], processes: int
) -> Iterator[tuple[int, Any]]:
    """Yield (index of the piece, value) for all values of `function(piece)`, as they arrive.

    The values of one piece stay in order. Workers are spawned, not forked, and so import the main
    module; function, pieces and values must be picklable.

    Raises:
        OSError: a worker died.
        Exception: whatever `function` raised in a worker; all workers are ended.
    """
    todo = iter(enumerate(pieces))
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(signals.child_processes())
        workers: dict[Connection, Any] = {}
        stack.callback(_end, workers)
        for _ in range(min(processes, len(pieces))):
            connection, process = _start(function, own)
            workers[connection] = process
            connection.send(next(todo))
        busy = set(workers)
        while busy:
            ready: list[Any] = multiprocessing.connection.wait(busy)
            for connection in ready:
                number, kind, value = _receive(connection)
                if kind == _DONE:
                    following = next(todo, None)
                    connection.send(following)
                    if following is None:
                        busy.remove(connection)
                elif isinstance(value, Exception):
                    raise value
                else:
                    yield number, value
        for process in workers.values():  # they have no work left
            process.join(_SECONDS_TO_END)


def _start(
    function: Callable[[Any], Iterable[Any]], own: Callable[[int], None]
) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    with signals.shield(), signals.blocked_in_children():
        process.start()
        own(process.pid or 0)
    theirs.close()  # so that the pipe ends when the worker dies
    return ours, process


def _receive(connection: Connection) -> tuple[int, str, Any]:
    try:
        return connection.recv()
    except (EOFError, ConnectionError) as error:
        raise OSError("a worker process died: was it out of memory? Start again") from error


def _end(workers: dict[Connection, Any]) -> None:
    for connection, process in workers.items():
        connection.close()
        process.terminate()
    limit = time.monotonic() + _SECONDS_TO_END
    for process in workers.values():
        process.join(max(0.0, limit - time.monotonic()))
        process.kill()
        process.join()


def _work(connection: Connection, function: Callable[[Any], Iterable[Any]]) -> None:
    signals.install("")  # the parent reports the stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while (given := connection.recv()) is not None:
        number, piece = given
        try:
            for value in function(piece):
                connection.send((number, "", value))
        except Exception as error:
            with contextlib.suppress(ConnectionError):
                connection.send((number, "", error))
            return
        connection.send((number, _DONE, None))


def _end_with_parent() -> None:
    """End this worker when its parent is killed, so that it does not write next to a new one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_SECONDS_TO_END)
    os._exit(1)
