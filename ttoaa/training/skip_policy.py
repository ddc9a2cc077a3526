"""Skip updates whose loss or gradient is not finite or spikes, or stop the run there."""

from collections.abc import Mapping
from typing import Annotated, Literal

import gin
import jax
import jax.numpy as jnp

from ttoaa.config_fields import Above, AtLeast, AtMost, PositiveInt, config_class


class Refused(ValueError):
    """The run must stop at this step; raised on all processes alike."""


GuardState = dict[str, jax.Array]
"""loss, grad_norm float32[window]: ring buffers of the last accepted steps. int32[]: accepted and
skipped, steps since the run began; in_a_row, steps skipped since the last accepted one.
"""
_WATCHED = ("loss", "grad_norm")


@gin.configurable
@config_class
class Guard:
    """Which steps are refused, and what happens then; may change when a run is resumed.

    The rule is that of OLMo-core's SkipStepOptimizer (its window, sigmas and deviation) with two
    differences: only upward spikes count, and refused steps do not enter the window, where one
    spike would hide the next. A lasting change of level therefore ends the run, by `max_skips`.
    """

    policy: Literal["stop", "skip"] = "stop"
    """'stop' ends the run at a refused step; 'skip' leaves weights and optimizer unchanged."""
    sigmas: Annotated[float, Above(0)] | None = None
    """Refuse values this many standard deviations above the window's mean (OLMo-core: 6)."""
    window: Annotated[int, AtLeast(4), AtMost(1_000_000)] = 128
    """Accepted steps to compare with; spikes are only found once half of them are there."""
    max_skips: PositiveInt = 16
    """The run ends when more steps than this are skipped in a row."""


def init(guard: Guard) -> GuardState:
    """Return the state of a run that begins: an empty window."""
    rings = {name: jnp.zeros(guard.window, jnp.float32) for name in _WATCHED}
    counts = {name: jnp.zeros((), jnp.int32) for name in ("accepted", "skipped", "in_a_row")}
    return {**rings, **counts}


def judge(
    guard: Guard, state: GuardState, loss: jax.Array, grad_norm: jax.Array
) -> tuple[jax.Array, GuardState]:
    """Return (accept bool[], new state) for a step's float32[] loss and unclipped gradient norm."""
    values = dict(zip(_WATCHED, (loss, grad_norm), strict=True))
    accept = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if guard.sigmas is not None:
        known = state["accepted"] >= guard.window // 2
        spikes = [_is_spike(guard.sigmas, state, name, value) for name, value in values.items()]
        accept &= ~(known & (spikes[0] | spikes[1]))
    slot = state["accepted"] % guard.window
    rings = {
        name: jnp.where(accept, state[name].at[slot].set(value), state[name])
        for name, value in values.items()
    }
    counts = {
        "accepted": state["accepted"] + accept,
        "skipped": state["skipped"] + ~accept,
        "in_a_row": jnp.where(accept, 0, state["in_a_row"] + 1),
    }
    return accept, {**rings, **counts}


def _is_spike(sigmas: float, state: GuardState, name: str, value: jax.Array) -> jax.Array:
    ring = state[name]
    count = jnp.clip(state["accepted"], 2, ring.size)
    filled = jnp.arange(ring.size) < count
    mean = jnp.sum(ring) / count  # slots not filled yet hold zeros
    variance = jnp.sum(jnp.where(filled, (ring - mean) ** 2, 0)) / (count - 1)
    return value - mean > sigmas * jnp.sqrt(variance)


def check(guard: Guard, step: int, values: Mapping[str, float], in_a_row: int) -> None:
    """Raise Refused if the run must end; `values` are the step's loss and grad_norm."""
    if in_a_row <= (0 if guard.policy == "stop" else guard.max_skips):
        return
    measured = ", ".join(f"{name} {values[name]:.6g}" for name in _WATCHED)
    skips = f", {in_a_row} steps in a row were refused" if guard.policy == "skip" else ""
    why = f"not finite, or over {guard.sigmas} sigmas up" if guard.sigmas else "not finite"
    raise Refused(
        f"step {step} has {measured} ({why}{skips}): lower the peak learning rate (in another "
        "--workdir, with InitFrom from here if needed), or set Guard; the newest checkpoint is of "
        "an earlier step"
    )
