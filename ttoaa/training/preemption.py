"""Stop at SIGTERM, sent by hand or before a preemption, at the same step on every process."""

import signal
import types
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Whether the run should save and stop; the same on every process at the same step.

    One process handles SIGTERM itself and stops at its next step. With several, JAX handles it: it
    notices a SIGTERM to any of them and chooses a step, about a second later, that none has reached
    yet. Only one handler can be installed, since the later one replaces the earlier.

    A preemption is noticed if it arrives as SIGTERM: from GKE when it evicts a pod, from SLURM with
    `--signal=TERM@<seconds>`, from `gcloud` and systemd when they stop a machine's services. A bare
    Cloud TPU VM whose program was started over ssh gets no signal before maintenance; the run then
    ends as if killed. Tested with signals to processes on one machine, not with a cloud's notices.
    """

    def __init__(self) -> None:
        self._received = False
        self._several_processes = jax.distributed.is_initialized()
        self._previous_handler: Any = None

    def __enter__(self) -> "StopRequest":
        if not self._several_processes:
            self._previous_handler = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._several_processes:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def received(self, step: int) -> bool:
        """Return whether to stop now; every process calls it once before every step."""
        if self._several_processes:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._received

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self._received = True
