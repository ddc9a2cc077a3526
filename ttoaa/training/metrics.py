"""Logged metrics of a training step: the protocol, and what a metric is computed from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp


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
        """Key in metrics.jsonl and TensorBoard; unlike those of the built-in metrics."""
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
