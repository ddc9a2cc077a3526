"""One trainer a run: its lease in the run's folder also tells others that it lives."""

import contextlib
import pathlib
from collections.abc import Callable

from ttoaa import alone as folders
from ttoaa.leases import Lease

_LEASE = "trainer"


def alone(
    folder: pathlib.Path, stale: float = folders.STALE, poll: float = 0.2
) -> contextlib.AbstractContextManager[Callable[[], bool]]:
    """Within, this process is the only trainer of that run; see ttoaa/alone.py."""
    return folders.alone(folder, _LEASE, "trained", stale, poll)


def trainer(folder: pathlib.Path) -> Lease | None:
    """The lease of the trainer that has that run in hand; None where none does."""
    return folders.holder(folder, _LEASE)
