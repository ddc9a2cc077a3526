"""One trainer a run: it holds a lease in the run's folder, which also tells others that it lives.

Without it a command typed twice would have two trainers write the same records and checkpoints.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

import tqdm

from ttoaa.leases import Lease, Leases, leases

STALE = 60.0
"""Seconds without a sign of life after which a trainer elsewhere is taken for dead."""
_LEASE = "trainer"


@contextlib.contextmanager
def alone(
    folder: pathlib.Path, stale: float = STALE, poll: float = 0.2
) -> Iterator[Callable[[], bool]]:
    """Within, this process is the only trainer of that run; gives what tells whether it still is.

    A trainer that died on another machine is waited for until its lease is `stale` seconds old. One
    that only stood for so long has lost the run to whoever came next, and must ask before it saves.

    Raises:
        ValueError: another trainer lives; it gave a sign of life while it was waited for.
    """
    with Leases(folder / "leases", stale) as held:
        youngest = float("inf")
        while not held.take(_LEASE):
            if other := trainer(folder):
                if other.age < youngest < float("inf"):
                    raise ValueError(
                        f"{folder} is being trained by {other.owner}: stop that process first, or "
                        "let it end"
                    )
                if youngest == float("inf"):
                    tqdm.tqdm.write(f"train: looks whether {other.owner} still trains {folder}")
                youngest = other.age
            time.sleep(poll)
        yield lambda: held.holds(_LEASE)


def trainer(folder: pathlib.Path) -> Lease | None:
    """The lease of the trainer that has that run in hand; None where none does."""
    return next((x for x in leases(folder / "leases") if x.name == _LEASE and x.alive), None)
