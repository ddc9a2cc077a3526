"""The run's metrics, arm losses and probes as JSON lines, and metrics for TensorBoard."""

import contextlib
import json
import math
import os
import pathlib
from typing import Any, TextIO

import tensorboardX

from ttoaa.workdir import atomic_writer, iterate_json_lines

FILES = ("metrics", "arms", "probes")


class MetricsLog:
    """Append to `<folder>/{metrics,arms,probes}.jsonl`, after removing lines later than `step`.

    With None for a folder, as on processes other than the primary, nothing is written.
    """

    def __init__(self, folder: pathlib.Path | None, step: int) -> None:
        self._files: dict[str, TextIO] = {}
        self._board: tensorboardX.SummaryWriter | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            path = folder / f"{name}.jsonl"
            if path.exists():
                with atomic_writer(path) as file:
                    file.writelines(
                        raw for raw, line in iterate_json_lines(path) if line["step"] <= step
                    )
        self._files = {
            name: open(folder / f"{name}.jsonl", "a", encoding="utf-8")  # noqa: SIM115
            for name in FILES
        }
        # Two writers in one folder overwrite each other: every start gets a new folder.
        starts = len(list((folder / "tensorboard").glob("*")))
        self._board = tensorboardX.SummaryWriter(
            str(folder / "tensorboard" / f"{starts:03d}-from-{max(step, 0):08d}"),
            purge_step=max(step, 0),
        )

    def metrics(self, step: int, **values: float) -> None:
        self._write("metrics", {"step": step, **values})
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def arms(self, step: int, sums: dict[int, tuple[float, float]]) -> None:
        """Write each arm's (loss summed over its targets, number of targets) of one step."""
        self._write("arms", {"step": step, "arms": {str(arm): sums[arm] for arm in sums}})

    def probe(self, step: int, experiment: str, probe: str, loss: list[float]) -> None:
        self._write(
            "probes", {"step": step, "experiment": experiment, "probe": probe, "loss": loss}
        )

    def sync(self) -> None:
        """Flush to disk, before a checkpoint that relies on it."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # close all, even if one finds the disk full
            for file in self._files.values():
                stack.callback(file.close)
            if self._board:
                stack.callback(self._board.close)
            self.sync()

    def _write(self, name: str, record: dict[str, Any]) -> None:
        if self._files:
            self._files[name].write(json.dumps(_replace_nonfinite(record)) + "\n")


def _replace_nonfinite(value: Any) -> Any:
    """Replace nan and infinity, which a skipped step may have and JSON has not, by None."""
    if isinstance(value, dict):
        return {name: _replace_nonfinite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
