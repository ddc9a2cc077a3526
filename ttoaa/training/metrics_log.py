"""The run's records: JSON lines that a resume cuts back, and TensorBoard beside them."""

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
    """Appends to `<folder>/{metrics,arms,probes}.jsonl`; what came after `step` is cut away.

    With None for a folder, as on processes other than the primary, nothing is kept.
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
        # Two writers in one folder overwrite each other: every start gets a folder of its own.
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
        """Loss summed over each arm's targets in one step, and how many they were."""
        self._write("arms", {"step": step, "arms": {str(arm): sums[arm] for arm in sums}})

    def probe(self, step: int, experiment: str, probe: str, loss: list[float]) -> None:
        self._write(
            "probes", {"step": step, "experiment": experiment, "probe": probe, "loss": loss}
        )

    def sync(self) -> None:
        """To disk, before a checkpoint that counts on it."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # all of them, even where one finds the disk full
            for file in self._files.values():
                stack.callback(file.close)
            if self._board:
                stack.callback(self._board.close)
            self.sync()

    def _write(self, name: str, record: dict[str, Any]) -> None:
        if self._files:
            self._files[name].write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(_finite(record)) + "\n"


def _finite(value: Any) -> Any:
    """A skipped step may have a loss that is not finite, which JSON cannot say: null."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
