"""Being asked to stop: SIGTERM, by hand or before a preemption; every process stops together."""

import signal
import types
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Says, the same on every process at the same step, whether the run is to save and stop.

    One process handles SIGTERM itself and stops at its next step. Several leave it to JAX, which
    hears of a SIGTERM that any one of them gets and names a step, about a second later, that none
    has passed yet; then `asked` must be called by all of them before every step, without a gap.
    The two exclude each other, as the later handler replaces the earlier one without a word.

    A preemption is noticed where it comes as SIGTERM: GKE does so when it evicts a pod, SLURM with
    `--signal=TERM@<seconds>`, `gcloud` and systemd when they stop a machine's services. A bare
    Cloud TPU VM whose program was started over ssh gets no signal before maintenance; the run then
    ends as by a kill. Tried with signals to processes on one machine, not with a cloud's notices.
    """

    def __init__(self) -> None:
        self._signals = 0
        self._together = jax.distributed.is_initialized()
        self._before: Any = None

    def __enter__(self) -> "StopRequest":
        if not self._together:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._together:
            signal.signal(signal.SIGTERM, self._before)

    def asked(self, step: int) -> bool:
        """To be called once before every step, by every process."""
        if self._together:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._signals > 0

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self._signals += 1
