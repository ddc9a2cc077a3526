"""One process at a time does a kind of work in a folder: it holds a lease there.

Without it a command typed twice would have two processes write the same files.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

import tqdm

from ttoaa.leases import Lease, Leases, leases

STALE = 60.0
"""Seconds without a sign of life after which a process elsewhere is taken for dead."""


@contextlib.contextmanager
def alone(
    folder: pathlib.Path, name: str, done: str, stale: float = STALE, poll: float = 0.2
) -> Iterator[Callable[[], bool]]:
    """Within, this process alone holds the lease `name`; gives what tells whether it still does.

    One that died on another machine is waited for until its lease is `stale` seconds old. One that
    only stood for so long has lost it to whoever came next, and must ask before it commits.

    Args:
        folder: its leases are in `leases/` within.
        name: of the lease.
        done: what is done to the folder, such as "trained", for messages.
        stale: seconds without a sign of life after which an owner elsewhere is taken for dead.
        poll: seconds between two looks.

    Raises:
        ValueError: another owner lives; it gave a sign of life while it was waited for.
    """
    with Leases(folder / "leases", stale) as held:
        youngest = float("inf")
        while not held.take(name):
            if other := holder(folder, name):
                if other.age < youngest < float("inf"):
                    raise ValueError(
                        f"{folder} is being {done} by {other.owner}: stop that process first, or "
                        "let it end"
                    )
                if youngest == float("inf"):
                    tqdm.tqdm.write(f"{folder}: looks whether it is still {done} by {other.owner}")
                youngest = other.age
            time.sleep(poll)
        yield lambda: held.holds(name)


def holder(folder: pathlib.Path, name: str) -> Lease | None:
    """The lease of that name where its owner lives."""
    return next((x for x in leases(folder / "leases") if x.name == name and x.alive), None)
