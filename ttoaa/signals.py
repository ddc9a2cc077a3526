"""Decide what SIGINT, SIGTERM and SIGHUP do in every command.

The first signal stops the command: it removes its unfinished files and its locks, ends its worker
processes, prints one line, and exits with 128 + the signal's number. It raises no exception,
because a library could swallow one, and does not wait for library threads. Committed work stays,
and the next start continues from it. Work that can be saved first runs in `deferred()`, which
postpones the exit. A SIGINT after the first signal ends the command at once in any case.

The module is imported before all others, so it needs nothing but the standard library.
"""

import atexit
import contextlib
import os
import pathlib
import select
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Collection, Iterator, Sequence

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_TO_END = 3.0
"""Time for a child process to end before it is killed."""

_name = ""
_installed = False
_unfinished: dict[pathlib.Path, Callable[[pathlib.Path], None]] = {}
_children: dict[int, None] = {}
_deferring: list["StopSignal"] = []
_received = False
"""Whether a signal was postponed: the command then exits by itself."""
_lock = threading.RLock()
"""The thread that stops the process never releases it, so no other thread creates new files."""
_shielded_thread = 0
_succeeded = False


def install(name: str) -> None:
    """Handle signals from now on, as the command `name`; without a name it prints no line.

    A signal that the process was started to ignore, as by nohup, stays ignored. Call it on the main
    thread; a later call only changes the name.
    """
    global _name, _installed
    _name = name
    if _installed:
        return
    _installed = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()
    os.register_at_fork(after_in_child=_forget)
    atexit.register(_finish)  # registered first, so called last
    for number in _NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def succeeded() -> None:
    """Say that the command did its work: it exits with 0 once all exit callbacks were called.

    The interpreter is then not taken down, during which threads of Arrow or TensorStore sometimes
    abort a process that has done everything.
    """
    global _succeeded
    _succeeded = True


def _finish() -> None:
    """Ignore signals from now on: the work is done, and the interpreter removes its handlers."""
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    if _succeeded:
        _lock.acquire()  # a stop that is under way has it, and ends the process with its own code
        with contextlib.suppress(OSError, ValueError):  # the interpreter reports a closed pipe
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def _forget() -> None:
    """Restore the default handlers in a forked child, which is not a command."""
    signal.set_wakeup_fd(-1)
    _unfinished.clear()
    _children.clear()
    for number in _NUMBERS:
        if signal.getsignal(number) == _on_signal:
            signal.signal(number, signal.SIG_DFL)


class StopSignal:
    """The signal that asked a command to stop while it was in `deferred()`."""

    def __init__(self, respond: Callable[[int], None] | None = None) -> None:
        self.number = 0
        """0 before the first signal."""
        self._respond = respond

    def receive(self, number: int) -> None:
        self.number = self.number or number
        if self._respond:
            self._respond(number)


@contextlib.contextmanager
def deferred(
    respond: Callable[[int], None] | None = None, numbers: Sequence[int] = _NUMBERS
) -> Iterator[StopSignal]:
    """Postpone the exit: the caller saves its work and exits by `StopSignal.number`.

    If `install` was not called, as in a notebook, signals are handled within the context only, and
    a second SIGINT raises KeyboardInterrupt.

    Args:
        respond: called with the number of every signal, possibly more than once.
        numbers: signals to handle if `install` was not called.
    """
    stop = StopSignal(respond)
    _deferring.append(stop)
    previous = {}
    if not _installed and threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, _on_signal) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _deferring.remove(stop)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def unfinished(
    path: pathlib.Path, remove: Callable[[pathlib.Path], None] = _remove
) -> Iterator[None]:
    """Remove this file or folder if the process is stopped within the context."""
    _unfinished[path] = remove
    try:
        yield
    finally:
        _unfinished.pop(path, None)


def hold(path: pathlib.Path, remove: Callable[[pathlib.Path], None] = _remove) -> None:
    """Remove this file if the process is stopped, until it is passed to `let_go`."""
    _unfinished[path] = remove


def let_go(path: pathlib.Path) -> None:
    _unfinished.pop(path, None)


@contextlib.contextmanager
def shield() -> Iterator[None]:
    """Delay a stop until the end of the context, which must be short."""
    global _shielded_thread
    with _lock:
        _shielded_thread = threading.get_ident()
        try:
            yield
        finally:
            _shielded_thread = 0


@contextlib.contextmanager
def child_processes() -> Iterator[Callable[[int], None]]:
    """Yield a function that registers the id of a child process, which a stop will also end."""
    own: list[int] = []

    def add(pid: int) -> None:
        own.append(pid)
        _children[pid] = None

    try:
        yield add
    finally:
        for pid in own:
            _children.pop(pid, None)


@contextlib.contextmanager
def blocked_in_children() -> Iterator[None]:
    """Block Ctrl-C in child processes started within the context: their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def reader_may_leave() -> Iterator[None]:
    """Exit quietly, with the code of SIGPIPE, if the reader of stdout, such as `head`, has left."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not reader_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        leave(128 + signal.SIGPIPE)


def reader_left() -> bool:
    """Return whether stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def leave(code: int) -> None:
    """Exit at once, without waiting for the threads of libraries."""
    _flush()
    os._exit(code)


def _on_signal(number: int, frame: types.FrameType | None) -> None:
    """Respond on the main thread, between two of its instructions."""
    if not _installed and number == signal.SIGINT and _deferring and _deferring[-1].number:
        raise KeyboardInterrupt
    if _deferring or _shielded_thread != threading.get_ident():
        _respond(number)  # otherwise the watcher thread responds after the shield


def _watch(reader: int) -> None:
    """Respond even while the main thread is in a long call; a second SIGINT ends the process.

    Python writes the number of every signal to this pipe as soon as it arrives.
    """
    first = 0
    while True:
        for number in os.read(reader, 1):
            if number not in _NUMBERS:
                continue
            if not first:
                first = number
                threading.Thread(target=_respond, args=(number, True), daemon=True).start()
            elif number == signal.SIGINT:
                _end_at_once(first)


def _respond(number: int, watcher: bool = False) -> None:
    """Postpone the exit or stop; the watcher may come when the main thread has done the first."""
    global _received
    deferring = _deferring[-1:]  # one look: the main thread may leave its context meanwhile
    if deferring:
        _received = True
        deferring[0].receive(number)
    elif not (watcher and _received):
        _stop(number)


def _stop(number: int) -> None:
    _lock.acquire()  # never released
    _remove_traces(signal.SIGTERM)
    _flush()
    _say(f"stopped by {signal.Signals(number).name}; run it again to continue")
    os._exit(128 + number)


def _end_at_once(first: int) -> None:
    if _lock.acquire(timeout=0.5):  # otherwise a stop is under way
        _remove_traces(signal.SIGTERM, signal.SIGINT)
    _say("stopped at once by a second signal; run it again to continue from the last save")
    os._exit(128 + first)


def _remove_traces(*numbers: int) -> None:
    """End the child processes, then remove unfinished files, within seconds."""
    _end_children(*numbers)

    def remove_all() -> None:
        for path, remove in list(_unfinished.items()):
            with contextlib.suppress(Exception):
                remove(path)

    removing = threading.Thread(target=remove_all, daemon=True)  # a bucket may not answer
    removing.start()
    removing.join(_SECONDS_TO_END)


def _end_children(*numbers: int) -> None:
    left, limit = set(_children), time.monotonic() + _SECONDS_TO_END
    _send(left, *numbers)
    while (left := {pid for pid in left if not _has_ended(pid)}) and time.monotonic() < limit:
        time.sleep(0.01)
    _send(left, signal.SIGKILL)


def _send(pids: Collection[int], *numbers: int) -> None:
    for pid in pids:
        for number in numbers:
            with contextlib.suppress(OSError):
                os.kill(pid, number)


def _has_ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except OSError:  # somebody else waited for it
        return True


def _flush() -> None:
    """Flush stdout, with a time limit, since the main thread may be inside a print."""
    flushing = threading.Thread(target=sys.stdout.flush, daemon=True)
    flushing.start()
    flushing.join(0.5)


def _say(what: str) -> None:
    """Print the command's line in a single write, which no other thread can block."""
    if _name:
        bars = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
        begin = (
            "\n" if getattr(bars, "_instances", None) else ""
        )  # a progress bar does not end its line
        with contextlib.suppress(OSError):
            os.write(2, f"{begin}{_name}: {what}\n".encode())
