"""Agreement among the processes of a run: all take the same branch, or some wait for ever.

Every process must call these, in the same order. With one process they cost nothing.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_primary(make: Callable[[], Any]) -> Any:
    """What `make` gives on process 0, as JSON, on every process; where it raises, all do.

    Also a barrier: no process gets here before the primary is done.
    """
    if jax.process_count() == 1:
        return make()
    if jax.process_index():
        told = json.loads(_broadcast(b""))
        if "error" in told:
            raise ValueError(told["error"])
        return told["value"]
    try:
        value = make()
    except Exception as error:
        _broadcast(json.dumps({"error": str(error)}).encode())
        raise
    _broadcast(json.dumps({"value": value}).encode())
    return value


def gather(text: str) -> list[str]:
    """The text of every process, in their order, on every process."""
    if jax.process_count() == 1:
        return [text]
    raw = text.encode()
    sizes = multihost_utils.process_allgather(np.int32(len(raw)))
    padded = np.frombuffer(raw.ljust(int(sizes.max()) or 1, b"\0"), np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row)[:size].decode() for row, size in zip(rows, sizes, strict=True)]


def _broadcast(raw: bytes) -> bytes:
    """The bytes of process 0; their number first, as the others cannot know it."""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(raw))))
    padded = np.frombuffer(raw.ljust(size, b"\0"), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded)))
