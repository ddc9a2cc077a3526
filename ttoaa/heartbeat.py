"""Signs of life: a file's time is renewed while its owner lives, an old file is of a dead one.

Ages compare this machine's clock with times of files, so clocks of the machines that share a folder
must agree far better than STALE; nothing else is assumed of them.
"""

import contextlib
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator

STALE = 600.0
"""Seconds without a sign of life, by default; far more than two clocks may differ by."""
BEATS = 20
"""Signs of life in that time."""


def new_owner() -> str:
    """host-process-number: no two owners are ever the same."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def age(path: pathlib.Path) -> float:
    """Seconds since the last sign of life; infinite where the file is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


@contextlib.contextmanager
def renewing(paths: Collection[pathlib.Path], every: float) -> Iterator[None]:
    """Within, a thread renews all files that are in `paths` at that moment, every so many seconds.

    It has stopped when this is left, so that nothing is renewed that is taken back afterwards.
    """
    over = threading.Event()

    def renew() -> None:
        while not over.wait(every):
            for path in tuple(paths):
                with contextlib.suppress(OSError):
                    os.utime(path)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
