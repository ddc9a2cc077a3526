"""Which updates are taken: not one of a loss or gradient that is not finite, or that leaps up."""

import dataclasses
from collections.abc import Mapping

import gin
import jax
import jax.numpy as jnp


class Refused(ValueError):
    """A step after which the run must not go on, on all processes alike."""


GuardState = dict[str, jax.Array]
"""loss, grad_norm float32[window]: of the last accepted steps, in a ring; accepted, skipped,
in_a_row int32[]: steps accepted and refused since the run began, refused since the last accepted.
"""
_WATCHED = ("loss", "grad_norm")


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Guard:
    """What is done about a step that is refused; may be changed when a run goes on.

    The rule is that of OLMo-core's SkipStepOptimizer (its window, sigmas and deviation) but for two
    things: only leaps upwards count, and what was refused does not enter the window, where one
    spike would hide the next. So a lasting change of level ends the run, by `max_skips`.
    """

    policy: str = "stop"
    """'stop' ends the run at a refused step, 'skip' leaves weights and optimizer and goes on."""
    sigmas: float | None = None
    """Refuse what is this many standard deviations above the window's mean (OLMo-core: 6)."""
    window: int = 128
    """Accepted steps that are looked back on; nothing is a leap before half of them are there."""
    max_skips: int = 16
    """Steps skipped in a row that still do not end the run."""

    def __post_init__(self) -> None:
        if self.policy not in ("stop", "skip"):
            raise ValueError(f"Guard.policy is 'stop' or 'skip', not {self.policy!r}")
        if self.sigmas is not None and not (
            isinstance(self.sigmas, int | float) and self.sigmas > 0
        ):
            raise ValueError(f"Guard.sigmas must be positive or None, not {self.sigmas!r}")
        if not isinstance(self.window, int) or self.window < 4:
            raise ValueError(f"Guard.window must be a number of steps >= 4, not {self.window!r}")
        if not isinstance(self.max_skips, int) or self.max_skips < 1:
            raise ValueError(f"Guard.max_skips must be a positive integer, not {self.max_skips!r}")


def init(guard: Guard) -> GuardState:
    rings = {name: jnp.zeros(guard.window, jnp.float32) for name in _WATCHED}
    counts = {name: jnp.zeros((), jnp.int32) for name in ("accepted", "skipped", "in_a_row")}
    return {**rings, **counts}


def judge(
    guard: Guard, state: GuardState, loss: jax.Array, grad_norm: jax.Array
) -> tuple[jax.Array, GuardState]:
    """(accept bool[], new state) of a step's float32[] loss and norm of its unclipped gradient."""
    values = dict(zip(_WATCHED, (loss, grad_norm), strict=True))
    accept = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    if guard.sigmas is not None:
        known = state["accepted"] >= guard.window // 2
        leaps = [_leaps(guard.sigmas, state, name, value) for name, value in values.items()]
        accept &= ~(known & (leaps[0] | leaps[1]))
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


def _leaps(sigmas: float, state: GuardState, name: str, value: jax.Array) -> jax.Array:
    ring = state[name]
    count = jnp.clip(state["accepted"], 2, ring.size)
    filled = jnp.arange(ring.size) < count
    mean = jnp.sum(ring) / count  # slots not filled yet hold zeros
    variance = jnp.sum(jnp.where(filled, (ring - mean) ** 2, 0)) / (count - 1)
    return value - mean > sigmas * jnp.sqrt(variance)


def check(guard: Guard, step: int, values: Mapping[str, float], in_a_row: int) -> None:
    """Raises Refused where the run must end; `values` are the step's loss and grad_norm."""
    if in_a_row <= (0 if guard.policy == "stop" else guard.max_skips):
        return
    what = ", ".join(f"{name} {values[name]:.6g}" for name in _WATCHED)
    skips = f", {in_a_row} steps in a row were refused" if guard.policy == "skip" else ""
    why = f"not finite, or over {guard.sigmas} sigmas up" if guard.sigmas else "not finite"
    raise Refused(
        f"step {step} has {what} ({why}{skips}): lower the peak learning rate (in another "
        "--workdir, if need be by InitFrom from here), or see Guard; the newest checkpoint is from "
        "before"
    )
