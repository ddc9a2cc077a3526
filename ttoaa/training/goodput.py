"""Goodput: the share of the time that a run held its machines in which it made progress.

The useful time is the ledger's: a checkpoint carries it, so the steps that a kill undid are not in
it. The time held is kept apart, in a file that no resume cuts back: every start and a sign of life
now and then, so that what `kill -9` took is counted to within one such interval, or to within the
compilation, validation or save that it hit. Start-up, compilation, saving, probing and steps done
again are held and not useful; time between two starts is neither.
"""

import json
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ttoaa.workdir import read_json_lines, write_text

INTERVAL = 30.0
"""Seconds between two signs of life."""


class Attempts:
    """Appends {"start", "time", "step"} to a file: number of the start, seconds since 1970, step.

    With None for a path, as on processes other than the primary, nothing is kept.
    """

    def __init__(self, path: pathlib.Path | None, step: int, began: float | None = None) -> None:
        """`began`, in time.time(), is when the process started; by default now."""
        self._path, self._last = path, float("-inf")
        lines = read_json_lines(path) if path else []
        self._start = 1 + max((line["start"] for line in lines), default=-1)
        if path:
            # Written anew, lest what follows is appended to a line that a kill cut short.
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._began = time.time() if began is None else began
        self._held = held_seconds(lines)
        if began is not None:
            self._note(step, began)
        self.beat(step)

    def beat(self, step: int) -> None:
        """A sign of life, written down if the last one is long ago."""
        self._step = step
        if time.monotonic() - self._last >= INTERVAL:
            self._last = time.monotonic()
            self._note(step, time.time())

    def end(self) -> None:
        """The last sign of life, of whoever ends in order."""
        self._note(self._step, time.time())

    def goodput(self, useful: float) -> dict[str, float]:
        """{"goodput"}, of the seconds of useful steps of the whole run; empty before any time."""
        held = self._held + max(0.0, time.time() - self._began)
        return {"goodput": min(1.0, useful / held)} if held > 0 else {}

    def _note(self, step: int, seconds: float) -> None:
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                line = {"start": self._start, "time": round(seconds, 3), "step": step}
                file.write(json.dumps(line) + "\n")


def held_seconds(lines: Iterable[Mapping[str, Any]]) -> float:
    """From each start to its last sign of life; a clock that was set back counts as standing."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for line in lines:
        start, seconds = line["start"], line["time"]
        first.setdefault(start, seconds)
        last[start] = max(last.get(start, seconds), seconds)
    return sum(last[start] - first[start] for start in first)
