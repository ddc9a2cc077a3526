"""Metrics of a training step: the protocol, what a metric sees, and the records of a run."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Protocol, TypedDict

import jax
import jax.numpy as jnp
import optax

from ttoaa import bucket
from ttoaa.checksums import FileDigest, RunningDigest
from ttoaa.json_io import iterate_json_lines
from ttoaa.workdir import write_bytes

FILES = ("metrics", "arms", "probes")
"""Record files of a run, `<name>.jsonl` in its folder."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepValues:
    """One update as a metric sees it, all float32; trees are nested like the parameters."""

    loss: jax.Array
    """Mean cross-entropy over the targets of the batch, in nats."""
    gradients: Any
    """Of the whole objective, before clipping."""
    before: Any
    """Parameters that the gradients were taken at."""
    after: Any
    """Parameters after the update; the same as `before` where the update was skipped."""

    @property
    def updates(self) -> Any:
        """What was added to the parameters."""
        return jax.tree.map(jnp.subtract, self.after, self.before)


class Metric(Protocol):
    """A frozen dataclass that gin makes (docs/extending/metric.md)."""

    @property
    def name(self) -> str:
        """Key in metrics.jsonl and trackers; unlike those of the built-in metrics."""
        ...

    def value(self, step: StepValues) -> jax.Array:
        """Return a scalar; runs inside the compiled step, after the update."""
        ...


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Raise ValueError for what is not a Metric, or a name that occurs twice."""
    for metric in metrics:
        if isinstance(metric, type) or not isinstance(getattr(metric, "name", None), str):
            raise ValueError(
                f"Training.metrics holds {metric!r}, which is not a metric: write @Name() with the "
                "parentheses"
            )
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ValueError(f"Training.metrics has two metrics of one name: {sorted(names)}")


def add_metrics(
    built_in: Mapping[str, jax.Array], metrics: Sequence[Metric], values: StepValues
) -> dict[str, jax.Array]:
    """Return the built-in metrics and the value of each metric.

    Raises ValueError for a value that is not a scalar, or a name that is taken.
    """
    found = dict(built_in)
    if not metrics:
        return found
    # Without the barrier the compiler might fuse a metric with the update and round it otherwise.
    values = jax.lax.optimization_barrier(values)
    for metric in metrics:
        value = jnp.asarray(metric.value(values))
        if value.shape or metric.name in found:
            what = "is a built-in metric's name" if metric.name in found else "must be a scalar"
            shape = f", not {value.dtype}{list(value.shape)}" if value.shape else ""
            raise ValueError(f"Training.metrics: {metric.name!r} {what}{shape}")
        found[metric.name] = value
    return found


@jax.jit
def layer_group_norms(params: Any) -> dict[str, jax.Array]:
    """Return the L2 norms of all attention, MLP and norm weights, as metrics.

    A program apart from the training step, whose bits it leaves alone. The step itself reports the
    norms of the embedding, the head and each block.
    """
    groups: dict[str, list[jax.Array]] = {"attention": [], "mlp": [], "norms": []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [str(part.key) for part in path]
        if any(name.endswith("norm") for name in names):
            groups["norms"].append(leaf)
        elif kind := groups.keys() & names:
            groups[kind.pop()].append(leaf)
    return {f"norm/{name}": optax.global_norm(leaves) for name, leaves in groups.items()}


class _Line(TypedDict):
    step: int


class MetricsLog:
    """Append to `<folder>/{metrics,arms,probes}.jsonl`, after removing lines later than `step`.

    With None for a folder, as on processes other than the primary, nothing is written.
    """

    def __init__(
        self,
        folder: pathlib.Path | None,
        step: int,
        kept: Mapping[str, bytes] | None = None,
        show: Callable[[str, Mapping[str, Any]], None] = lambda name, line: None,
    ) -> None:
        """Open the files.

        Args:
            kept: the verified content of files up to `step`, by name; others are cut by step.
            show: called with the name of the file and every line that is written.
        """
        self._files: dict[str, BinaryIO] = {}
        self._digests: dict[str, RunningDigest] = {}
        self._show = show
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            path = folder / f"{name}.jsonl"
            content = (kept or {}).get(path.name)
            if content is None:
                lines = iterate_json_lines(path, _Line) if step >= 0 else iter(())
                content = b"".join(raw for raw, line in lines if line["step"] <= step)
            write_bytes(path, content)  # a new file: a paused trainer writes into its old one
            self._digests[name] = RunningDigest(content)
        self._files = {name: (folder / f"{name}.jsonl").open("a+b") for name in FILES}

    def metrics(self, step: int, **values: float) -> None:
        self._write("metrics", {"step": step, **values})

    def arms(self, step: int, sums: dict[int, tuple[float, float]]) -> None:
        """Write each arm's (loss summed over its targets, number of targets) of one step."""
        self._write("arms", {"step": step, "arms": {str(arm): sums[arm] for arm in sums}})

    def probe(self, step: int, experiment: str, probe: str, loss: list[float]) -> None:
        self._write(
            "probes", {"step": step, "experiment": experiment, "probe": probe, "loss": loss}
        )

    @property
    def digests(self) -> dict[str, FileDigest]:
        """The digest of each file as it is after `sync`."""
        return {f"{name}.jsonl": digest.value for name, digest in self._digests.items()}

    def sync(self) -> None:
        """Flush to disk, and to a bucket, before a checkpoint that relies on it."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            bucket.upload(pathlib.Path(file.name), file)

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # close all, even if one finds the disk full
            for file in self._files.values():
                stack.callback(file.close)
            self.sync()

    def _write(self, name: str, record: dict[str, Any]) -> None:
        if self._files:
            raw = json.dumps(_replace_nonfinite(record)).encode() + b"\n"
            self._files[name].write(raw)
            self._digests[name].update(raw)
            self._show(name, record)


def _replace_nonfinite(value: Any) -> Any:
    """Replace nan and infinity, which a skipped step may have and JSON has not, by None."""
    if isinstance(value, dict):
        return {name: _replace_nonfinite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
