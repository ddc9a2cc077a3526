"""Turn the records of a run into rows of scalars, and send each to the trackers once."""

import contextlib
import heapq
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from ttoaa.json_io import iterate_json_lines
from ttoaa.training.multihost import first_line
from ttoaa.training.run_records import ArmsLine, MetricsLine, ProbesLine
from ttoaa.training.trackers import Tracker

_LINES = {"metrics": MetricsLine, "arms": ArmsLine, "probes": ProbesLine}
"""Record file to the structure of its lines, in the order in which a step is recorded."""


class TrackerRows:
    """Collects the records of each step, and sends them as one row once the step is complete.

    A step of which something is missing, as after a crash, is not sent: the next start does it. A
    tracker that fails is closed, and the run continues without it.
    """

    def __init__(self, trackers: Sequence[Tracker], arms: Mapping[int, str]) -> None:
        """`arms` names the loss of each arm."""
        self._trackers, self._arms = list(trackers), arms
        self.failed = False
        """Whether a tracker failed."""
        self._step, self._row = -1, dict[str, float]()

    def add(self, file: str, line: Mapping[str, Any]) -> None:
        """Take a line of the record file `<file>.jsonl`; the steps of lines ascend."""
        if line["step"] != self._step:
            self.send()
            self._step = line["step"]
        self._row.update(scalars(file, line, self._arms))

    def send(self) -> None:
        """Send the row of the last step, which is complete."""
        row, self._row = self._row, {}
        for tracker in list(self._trackers):
            if row and self._step > tracker.last:
                with self._closed_if_it_fails(tracker):
                    tracker.log(self._step, row)

    def fill_up(self, folder: pathlib.Path, newest: int) -> None:
        """Send what trackers have not got yet of the records of the run in this folder.

        `newest` is the last step of the records.
        """
        oldest = min((tracker.last for tracker in self._trackers), default=newest)
        if oldest < newest:
            files = [_read_lines(folder, name) for name in _LINES]
            for name, line in heapq.merge(*files, key=lambda pair: pair[1]["step"]):
                if line["step"] > oldest:
                    self.add(name, line)
            self.send()

    def sync(self) -> None:
        """Send the row of the last step, before a checkpoint that relies on it."""
        self.send()
        for tracker in list(self._trackers):
            with self._closed_if_it_fails(tracker):
                tracker.sync()

    def close(self, finished: bool) -> None:
        """Close all trackers; `finished` says whether the run has ended."""
        for tracker in list(self._trackers):
            with self._closed_if_it_fails(tracker):
                self._trackers.remove(tracker)
                tracker.close(finished)

    @contextlib.contextmanager
    def _closed_if_it_fails(self, tracker: Tracker) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any kind: the packages differ
            self.failed = True
            tqdm.tqdm.write(
                f"{type(tracker).__name__} fails ({first_line(error)}) and gets no more rows: the "
                "next start sends what is missing"
            )
            if tracker in self._trackers:
                self._trackers.remove(tracker)
                with contextlib.suppress(Exception):
                    tracker.close(finished=False)


def _read_lines(folder: pathlib.Path, name: str) -> Iterator[tuple[str, Any]]:
    for _, line in iterate_json_lines(folder / f"{name}.jsonl", _LINES[name]):
        yield name, line


def scalars(file: str, line: Mapping[str, Any], arms: Mapping[int, str]) -> dict[str, float]:
    """Return the scalars of a line by the names that trackers show, grouped by experiment.

    | file | names |
    |---|---|
    | metrics | as they are: `loss`, `norm/head` |
    | arms | `corpus/loss` and `EXPERIMENT/loss/CONDITION`, in nats per target |
    | probes | `EXPERIMENT/probe/PROBE`, the mean loss of its rows |
    """
    if file == "arms":
        found = {int(arm): pair for arm, pair in line["arms"].items()}
        return {
            arms.get(arm, f"arm-{arm}/loss"): _number(total) / count
            for arm, (total, count) in found.items()
        }
    if file == "probes":
        loss = float(np.mean([_number(row) for row in line["loss"]]))
        return {f"{line['experiment']}/probe/{line['probe']}": loss}
    return {name: _number(value) for name, value in line.items() if name != "step"}


def _number(value: float | None) -> float:
    """Return a number of a record, in which None stands for all that are not finite."""
    return float("nan") if value is None else float(value)
