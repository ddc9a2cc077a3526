"""The interface of controllers: a probe decides the insertions of each interval (contract C6).

Only data and pure functions: the training loop measures and logs, the loader inserts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ttoaa.identity import digest
from ttoaa.planning.controller_log import SlotTexts


@dataclasses.dataclass(frozen=True)
class Measured:
    """The probes of a controller: each gives the summed log-probability of its target, in nats."""

    tokens_NxL: np.ndarray
    """int32[N, L]: one row for each target, padded with EOS; L may differ from training."""
    start: np.ndarray
    """int[N]: index of the target's first token, at least 1."""
    stop: np.ndarray
    """int[N]: index after the target's last token."""


class Controller(Protocol):
    """A controller: a frozen dataclass of plain values with pure methods.

    The same inputs must give the same decisions, to the bit.
    """

    @property
    def slots(self) -> str:
        """The id of the item whose copies are the slots: it has `Item.slot`, the placement
        `PerInterval(every)`, and intervals x (slots of an interval) repetitions."""
        ...

    @property
    def every(self) -> int:
        """Steps of an interval."""
        ...

    @property
    def measured(self) -> Measured: ...

    @property
    def texts(self) -> Sequence[np.ndarray]:
        """The texts that it may insert: int32[n] each, no longer than a slot."""
        ...

    def start(self) -> dict[str, Any]:
        """Return the state before the first decision, as JSON."""
        ...

    def decide(
        self, state: Mapping[str, Any], interval: int, log_p: np.ndarray
    ) -> tuple[list[int], dict[str, Any]]:
        """Return (indices of the texts that fill the first slots of `interval`, the new state).

        Args:
            state: what the previous decision returned, after a round trip through JSON.
            interval: the number of the interval, from 0.
            log_p: float64[N], measured at the interval's first step before its batch was seen.
        """
        ...


Named = tuple[str, Controller]
"""(name of the experiment, controller)."""


def slot_texts(controllers: Sequence[Named]) -> list[SlotTexts]:
    """Return the texts and slots of each controller."""
    return [SlotTexts(name, c.slots, c.every, c.texts) for name, c in controllers]


def check_controllers(controllers: Sequence[Named], vocab_size: int) -> None:
    """Raise ValueError, naming the experiment, for probes or texts that are not valid."""
    seen = set()
    for name, controller in controllers:
        who = f"{name}/{controller.slots}"
        if (name, controller.slots) in seen:
            raise ValueError(f"{who}: two controllers cannot have the same slots")
        seen.add((name, controller.slots))
        measured = controller.measured
        tokens, start, stop = measured.tokens_NxL, measured.start, measured.stop
        if tokens.ndim != 2 or not len(tokens) == len(start) == len(stop):
            raise ValueError(
                f"{who}: Measured needs tokens int[N, L], start int[N] and stop int[N], not the "
                f"shapes {tokens.shape}, {np.shape(start)} and {np.shape(stop)}"
            )
        for row in np.flatnonzero((start < 1) | (stop <= start) | (stop > tokens.shape[1])):
            raise ValueError(
                f"{who}: the target of probe {row}, tokens {start[row]} to {stop[row]} of "
                f"{tokens.shape[1]}, must hold a token and have one before it"
            )
        for what, texts in (("probe", tokens), ("text", controller.texts)):
            for number, text in enumerate(texts):
                if len(text) and not 0 <= np.min(text) <= np.max(text) < vocab_size:
                    raise ValueError(
                        f"{who}: {what} {number} has a token outside the vocabulary of {vocab_size}"
                    )


def measured_fingerprint(controllers: Sequence[Named]) -> str:
    """Return the sha256 of the probes and their steps, which the control run must share."""
    return digest({f"{name}/{c.slots}": (c.every, c.measured) for name, c in controllers})


def controllers_fingerprint(controllers: Sequence[Named]) -> str:
    """Return the sha256 of probes, texts and parameters; ValueError if not plain values."""
    return digest(
        {f"{name}/{c.slots}": (c.every, c.measured, c.texts, c) for name, c in controllers}
    )
