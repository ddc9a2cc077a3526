"""How far a study's runs are, from their records and leases alone: nothing here starts JAX."""

import dataclasses
import time

from ttoaa.training.alone import trainer
from ttoaa.workdir import RUNS, Workdir, read_json, read_json_lines


@dataclasses.dataclass(frozen=True)
class Progress:
    """One run. Its trainer notes a step and the time every half minute or so."""

    run: str
    step: int | None
    """Of the last note; None where there is none yet."""
    quiet: float | None
    """Seconds since then."""
    finished: bool
    training: bool
    """Whether a trainer that lives has it in hand."""

    def __str__(self) -> str:
        if self.finished:
            return f"{self.run} is finished"
        if self.step is None or self.quiet is None:
            return f"{self.run} is starting" if self.training else f"{self.run} has not begun"
        told = f"{self.run} was at step {self.step:,} {span(self.quiet)} ago"
        return told if self.training else f"{told}, and nobody trains it"


def progress(workdir: Workdir) -> dict[str, Progress]:
    """Of the control run and the run."""
    found = {}
    for kind in RUNS:
        folder = workdir.run(kind)
        lines = read_json_lines(folder / "attempts.jsonl")
        step = lines[-1]["step"] if lines else None
        quiet = max(0.0, time.time() - lines[-1]["time"]) if lines else None
        finished = folder / "finished.json"
        if finished.exists():
            step = read_json(finished)["step"]
        training = not finished.exists() and trainer(folder) is not None
        found[kind] = Progress(folder.name, step, quiet, finished.exists(), training)
    return found


def span(seconds: float) -> str:
    """A duration as one reads it: 40 s, 12 min, 3 h, 2 days."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
