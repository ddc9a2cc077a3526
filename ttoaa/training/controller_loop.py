"""Run the controllers at the start of their intervals: measure, decide, log, fill slots (C6)."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.checksums import FileDigest
from ttoaa.experiments.controllers import Controller, Named
from ttoaa.planning import controller_log
from ttoaa.planning.injection import SlotOverlay
from ttoaa.scoring.requests import Request
from ttoaa.training.multihost import from_primary

Measure = Callable[[Sequence[Request]], list[np.ndarray]]
"""Returns log-probabilities of tokens[start:] for each (tokens, start), alike on all processes."""


@dataclasses.dataclass(frozen=True)
class ControllerSet:
    """The controllers of a run, and the slots that their decisions fill."""

    controllers: Sequence[Named] = ()
    fingerprint: str = ""
    """Of the controllers: the root of the hash chain of the decision log."""
    measured_fingerprint: str = ""
    """Of the probes and when they are measured."""
    overlay: SlotOverlay | None = None
    """The slots that the first controllers fill. Others, or all if it is None, only measure."""

    def __bool__(self) -> bool:
        return bool(self.controllers)

    def decides(self, number: int) -> bool:
        """Whether a controller fills slots in this run."""
        return self.overlay is not None and number < len(self.overlay.slot_texts)

    def is_boundary(self, step: int) -> bool:
        return any(step % controller.every == 0 for _, controller in self.controllers)


class ControllerLoop:
    """Measure and decide; all processes call it alike, the primary decides and logs.

    On the primary the log is opened, and decisions after the checkpoint are cut from it.
    """

    def __init__(
        self, controls: ControllerSet, folder: pathlib.Path, start: int, head: str | None
    ) -> None:
        """Open the decision log and replay it into the slots.

        Args:
            folder: of the run.
            start: first step.
            head: of the log at the checkpoint that the run resumes from; None for a fresh run.

        Raises:
            ValueError: the log is damaged.
        """
        self._controls = controls
        self._log: controller_log.ControllerLog | None = None
        self._states: dict[tuple[str, str], dict[str, Any]] = {}
        self._requests = [requests(controller) for _, controller in controls.controllers]
        if not controls:
            return
        decisions = from_primary(functools.partial(self._open_log, folder, head))
        if controls.overlay:
            controls.overlay.begin(start)
            controls.overlay.replay(decisions)

    def _open_log(self, folder: pathlib.Path, head: str | None) -> list[controller_log.Line]:
        """Open the log, and return the part of its lines that every process needs."""
        self._log = log = controller_log.ControllerLog(
            folder / controller_log.LOG_NAME, self._controls.fingerprint, head
        )
        if self._controls.overlay:
            controller_log.store_slot_texts(
                folder / controller_log.SLOT_TEXTS_FOLDER, self._controls.overlay.slot_texts
            )
        for line in log.kept:
            self._states[line["experiment"], line["slots"]] = line["state"]
        shared = ("experiment", "slots", "interval", "chosen")
        return [{name: line[name] for name in shared} for line in log.kept]

    @property
    def meta(self) -> dict[str, str]:
        """The head of the log for the primary's checkpoint; empty without controllers."""
        return {"decisions": self._log.head} if self._log else {}

    @property
    def digests(self) -> dict[str, FileDigest]:
        """The digest of the primary's log, by its file's name; empty without controllers."""
        return {controller_log.LOG_NAME: self._log.digest} if self._log else {}

    def sync(self) -> None:
        if self._log:
            self._log.sync()

    def close(self) -> None:
        if self._log:
            self._log.close()

    def due(self, step: int) -> list[tuple[str, list[int]]]:
        """List each experiment that decides at `step`, with the numbers of its controllers."""
        numbered = enumerate(self._controls.controllers)
        deciding = [(name, n) for n, (name, c) in numbered if step % c.every == 0]
        grouped = itertools.groupby(deciding, lambda pair: pair[0])
        return [(name, [number for _, number in group]) for name, group in grouped]

    def decide(self, step: int, numbers: Sequence[int], measure: Measure) -> None:
        """Measure these controllers' probes together, and let each decide for its interval."""
        probes = [self._requests[number] for number in numbers]
        scores = iter(measure([request for each in probes for request in each]))
        log_p = [[float(np.sum(next(scores), dtype=np.float64)) for _ in each] for each in probes]
        chosen = from_primary(functools.partial(self._decide_and_log, step, numbers, log_p))
        for number, texts in zip(numbers, chosen, strict=True):
            if self._controls.overlay and self._controls.decides(number):
                interval = step // self._controls.controllers[number][1].every
                self._controls.overlay.decide(number, interval, texts)

    def _decide_and_log(
        self, step: int, numbers: Sequence[int], log_p: list[list[float]]
    ) -> list[Any]:
        """Return the texts that each controller chose, after they are in the log."""
        lines = [self._decide_one(step, n, each) for n, each in zip(numbers, log_p, strict=True)]
        assert self._log is not None
        self._log.append(lines)
        return [line["chosen"] for line in lines]

    def _decide_one(self, step: int, number: int, log_p: list[float]) -> Mapping[str, Any]:
        """Return the log line of one controller's decision."""
        name, controller = self._controls.controllers[number]
        who, interval = f"{name}/{controller.slots}", step // controller.every
        line = {"experiment": name, "slots": controller.slots, "interval": interval, "step": step}
        if not np.isfinite(log_p).all():
            raise ValueError(f"{who}: at step {step} a probe's log p is not finite: {log_p!r:.200}")
        overlay = self._controls.overlay
        if overlay is None or not self._controls.decides(number):
            return {**line, "log_p": log_p, "chosen": None, "state": None}
        key = name, controller.slots
        before = self._states[key] if key in self._states else _to_json(who, controller.start())
        chosen, after = controller.decide(before, interval, np.array(log_p))
        state = self._states[key] = _to_json(who, after)
        chosen = overlay.validate(number, interval, chosen)
        return {**line, "log_p": log_p, "chosen": chosen, "state": state}


def requests(controller: Controller) -> list[Request]:
    """Return the scoring requests of a controller: each probe up to the end of its target."""
    measured = controller.measured
    ends = zip(measured.start.tolist(), measured.stop.tolist(), strict=True)
    rows = zip(measured.tokens_NxL, ends, strict=True)
    return [(np.asarray(tokens[:stop], np.int32), start) for tokens, (start, stop) in rows]


def _to_json(who: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state as a resume reads it from the log, so that both decide alike."""
    try:
        return dict(json.loads(json.dumps(state, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{who}: a controller's state must be JSON: {error}") from error
