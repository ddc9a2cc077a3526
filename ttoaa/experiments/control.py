"""What a controller is: a probe of the model decides the edits of the next interval (contract C6).

Data and pure functions only. The loop measures and logs, the loader writes what was decided.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured: log p of each row's target, summed over its tokens, in nats."""

    tokens_NxL: np.ndarray
    """int32[N, L], a row for each target, EOS-padded; L need not be that of training."""
    start: np.ndarray
    """int[N]: the first token of the target, at least 1."""
    stop: np.ndarray
    """int[N]: after its last one."""


class Controller(Protocol):
    """A frozen dataclass of plain values: the same inputs give the same decisions, to the bit."""

    @property
    def slots(self) -> str:
        """Id of the experiment's item whose copies are the slots: `Item.slot`, placed by
        `PerInterval(every)`, as many copies as intervals times slots of one."""
        ...

    @property
    def every(self) -> int:
        """Steps of an interval."""
        ...

    @property
    def measured(self) -> Measured: ...

    @property
    def texts(self) -> Sequence[np.ndarray]:
        """int32[n] each, no longer than a slot: what it may insert."""
        ...

    def start(self) -> dict[str, Any]:
        """The state before the first decision, as JSON has it."""
        ...

    def decide(
        self, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], dict[str, Any]]:
        """(texts, by their index, that fill the first slots of an interval; the new state).

        `log_p` float64[N] was measured at the interval's first step, before its batch was seen.
        `state` is what the last decision left, once through JSON.
        """
        ...
