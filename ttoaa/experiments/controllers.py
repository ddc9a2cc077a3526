"""What a controller is: a probe of the model decides the edits of the next interval (contract C6).

Data and pure functions only. The loop measures and logs, the loader writes what was decided.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ttoaa.planning.controller_log import SlotTexts


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


Named = tuple[str, Controller]
"""An experiment's name, and a controller of it."""


def slot_texts(controllers: Sequence[Named]) -> list[SlotTexts]:
    """What each may insert, and where."""
    return [SlotTexts(name, c.slots, c.every, c.texts) for name, c in controllers]


def check_controllers(controllers: Sequence[Named], vocab_size: int) -> None:
    """Raises ValueError, naming the experiment, for what cannot be measured or inserted."""
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
                f"{who}: Measured is of tokens int[N, L], start int[N] and stop int[N], not of the "
                f"shapes {tokens.shape}, {np.shape(start)} and {np.shape(stop)}"
            )
        for row in np.flatnonzero((start < 1) | (stop <= start) | (stop > tokens.shape[1])):
            raise ValueError(
                f"{who}: probe {row} is of {tokens.shape[1]} tokens, its target cannot be those "
                f"from {start[row]} to {stop[row]}: it needs a token before it, and one at least"
            )
        for what, texts in (("probe", tokens), ("text", controller.texts)):
            for number, text in enumerate(texts):
                if len(text) and not 0 <= np.min(text) <= np.max(text) < vocab_size:
                    raise ValueError(
                        f"{who}: {what} {number} has a token outside the vocabulary of {vocab_size}"
                    )


def measured_fingerprint(controllers: Sequence[Named]) -> str:
    """sha256 of what is measured and when: the same in the control run."""
    return _sha256([(name, c.slots, c.every, c.measured) for name, c in controllers])


def controllers_fingerprint(controllers: Sequence[Named]) -> str:
    """sha256 of probes, texts and parameters. Raises ValueError for values that are not plain."""
    return _sha256(
        [(name, c.slots, c.every, c.measured, tuple(c.texts), c) for name, c in controllers]
    )


def _sha256(value: Any) -> str:
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Each value with its kind and size before it, so that no two values read alike."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        digest.update(f"{type(value).__qualname__} ".encode())
        _update(digest, {f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        _update(digest, list(value.items()))
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} values ".encode())
        for each in value:
            _update(digest, each)
    elif value is None or isinstance(value, bool | int | float | str):
        digest.update(f"{value!r} ".encode())
    else:
        raise ValueError(f"a controller is made of plain values, not of {value!r:.100}")
