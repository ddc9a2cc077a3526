"""Controllers in the run: measured, asked, logged and obeyed where intervals begin (C6)."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.experiments.controllers import Controller, Named
from ttoaa.planning import controller_log
from ttoaa.planning.injection import SlotOverlay
from ttoaa.scoring.requests import Request
from ttoaa.training.multihost import from_primary

Measure = Callable[[Sequence[Request]], list[np.ndarray]]
"""For each (tokens, start) the log-probabilities of tokens[start:], the same on every process."""


@dataclasses.dataclass(frozen=True)
class ControllerSet:
    """The controllers of a run, and what is done with what they decide."""

    controllers: Sequence[Named] = ()
    root: str = ""
    """What the log of decisions begins with: a fingerprint of the controllers."""
    measured: str = ""
    """A fingerprint of what is measured, and when."""
    filled: SlotOverlay | None = None
    """Where decisions go; without it, as in a control run, all is measured and nothing decided."""

    def __bool__(self) -> bool:
        return bool(self.controllers)

    def is_boundary(self, step: int) -> bool:
        return any(step % controller.every == 0 for _, controller in self.controllers)


class ControllerLoop:
    """All processes call it alike: the primary decides and logs, and tells the others."""

    def __init__(
        self, controls: ControllerSet, folder: pathlib.Path, start: int, head: str | None
    ) -> None:
        """`head` is that of the checkpoint from which the run starts; decisions after it go.

        Raises ValueError where the log is damaged.
        """
        self._controls = controls
        self._log: controller_log.ControllerLog | None = None
        self._states: dict[tuple[str, str], dict[str, Any]] = {}
        self._requests = [requests(controller) for _, controller in controls.controllers]
        if not controls:
            return
        kept = from_primary(functools.partial(self._open, folder, head))
        if controls.filled:
            controls.filled.begin(start)
            controls.filled.replay(kept)

    def _open(self, folder: pathlib.Path, head: str | None) -> list[controller_log.Line]:
        """What every process must know of the decisions made so far."""
        self._log = log = controller_log.ControllerLog(
            folder / controller_log.LOG_NAME, self._controls.root, head
        )
        if self._controls.filled:
            controller_log.store_slot_texts(
                folder / controller_log.SLOT_TEXTS_FOLDER, self._controls.filled.slot_texts
            )
        for line in log.kept:
            self._states[line["experiment"], line["slots"]] = line["state"]
        told = ("experiment", "slots", "interval", "chosen")
        return [{name: line[name] for name in told} for line in log.kept]

    @property
    def meta(self) -> dict[str, str]:
        """For the primary's checkpoint, the head of the log; nothing without controllers."""
        return {"decisions": self._log.head} if self._log else {}

    def close(self) -> None:
        if self._log:
            self._log.close()

    def due(self, step: int) -> list[tuple[str, list[int]]]:
        """(experiment, its controllers by their numbers) that decide at `step`."""
        numbered = enumerate(self._controls.controllers)
        found = [(name, n) for n, (name, c) in numbered if step % c.every == 0]
        grouped = itertools.groupby(found, lambda each: each[0])
        return [(name, [number for _, number in group]) for name, group in grouped]

    def decide(self, step: int, numbers: Sequence[int], measure: Measure) -> None:
        """Measures for these controllers at once, and has each decide on its interval."""
        asked = [self._requests[number] for number in numbers]
        scores = iter(measure([request for each in asked for request in each]))
        log_p = [[float(np.sum(next(scores), dtype=np.float64)) for _ in each] for each in asked]
        chosen = from_primary(functools.partial(self._decide, step, numbers, log_p))
        if self._controls.filled:
            for number, texts in zip(numbers, chosen, strict=True):
                interval = step // self._controls.controllers[number][1].every
                self._controls.filled.decide(number, interval, texts)

    def _decide(self, step: int, numbers: Sequence[int], log_p: list[list[float]]) -> list[Any]:
        """Of each controller the chosen texts, once they are in the log."""
        lines = [self._line(step, n, values) for n, values in zip(numbers, log_p, strict=True)]
        assert self._log is not None
        self._log.append(lines)
        return [line["chosen"] for line in lines]

    def _line(self, step: int, number: int, log_p: list[float]) -> Mapping[str, Any]:
        name, controller = self._controls.controllers[number]
        who, interval = f"{name}/{controller.slots}", step // controller.every
        line = {"experiment": name, "slots": controller.slots, "interval": interval, "step": step}
        if not np.isfinite(log_p).all():
            raise ValueError(f"{who}: at step {step} a probe's log p is not finite: {log_p!r:.200}")
        filled = self._controls.filled
        if filled is None:
            return {**line, "log_p": log_p, "chosen": None, "state": None}
        key = name, controller.slots
        before = self._states[key] if key in self._states else _plain(who, controller.start())
        chosen, after = controller.decide(before, interval, np.array(log_p))
        state = self._states[key] = _plain(who, after)
        chosen = filled.validate(number, interval, chosen)
        return {**line, "log_p": log_p, "chosen": chosen, "state": state}


def requests(controller: Controller) -> list[Request]:
    """What is scored for a controller: each probe up to the end of its target."""
    measured = controller.measured
    ends = zip(measured.start.tolist(), measured.stop.tolist(), strict=True)
    rows = zip(measured.tokens_NxL, ends, strict=True)
    return [(np.asarray(tokens[:stop], np.int32), start) for tokens, (start, stop) in rows]


def _plain(who: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """A state as it is read again from the log, so that a resume decides from the same."""
    try:
        return dict(json.loads(json.dumps(state, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: a controller's state must be JSON: {error}") from error
