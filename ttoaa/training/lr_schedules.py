"""Learning-rate schedules: the protocol, a constant, and three that warm up linearly.

Updates are numbered u = 0 .. steps - 1 by the run's step, so a skipped update keeps its place.
"""

from typing import Annotated, Protocol

import gin
import jax
import jax.numpy as jnp
import optax

from ttoaa.config_fields import AtLeast, AtMost, Count, Positive, Share, config_class

LearningRate = Annotated[float, AtLeast(1e-9), AtMost(10)]
"""A peak learning rate. Smaller updates vanish in the rounding of float32 weights."""


class LearningRateSchedule(Protocol):
    """A frozen dataclass that gin makes (docs/extending/learning_rate_schedule.md)."""

    def over(self, steps: int) -> optax.Schedule:
        """Return the function from update number to learning rate for a run of `steps` updates.

        It runs inside the compiled step on an int32[]. Raises ValueError where the schedule does
        not fit the run.
        """
        ...


@gin.configurable
@config_class
class Constant:
    """The same rate in every update, such as that of a checkpoint from which bursts start."""

    rate: LearningRate

    def over(self, steps: int) -> optax.Schedule:
        return lambda update: jnp.float32(self.rate)


@gin.configurable
@config_class
class Cosine:
    """Linear warm-up, then half a cosine that ends at `final` times the peak.

    As in OLMo (CosWithWarmup in olmo/optim.py), update u counts as step u + 1. Update warmup - 1
    has the peak, and the last update has exactly `final` times the peak.
    """

    peak: LearningRate
    warmup: Count
    final: Share = 0.1

    def over(self, steps: int) -> optax.Schedule:
        _check_length(steps, self.warmup, 1)

        def rate(update: jax.Array) -> jax.Array:
            step = jnp.minimum(update + 1, steps)
            return self.peak * _warmed_cosine(step, self.warmup, steps, self.final)

        return rate


@gin.configurable
@config_class
class ConstantLinear:
    """Linear warm-up, constant, then linear to zero over the last `decay` fraction of the run.

    Update u < warmup has (u + 1) / warmup of the peak. The first update of the decay has the peak,
    and the last one is one step above zero: the rate would reach zero after the run, so no batch is
    wasted. At small scale this is the shape of the paper's schedule, whose cosine is still at 99.7%
    of the peak when its linear decay begins (appendix B.1).
    """

    peak: LearningRate
    warmup: Count
    decay: Share = 0.1

    def over(self, steps: int) -> optax.Schedule:
        length = max(1, round(steps * self.decay))
        _check_length(steps, self.warmup, length)
        decay = optax.linear_schedule(self.peak, 0.0, length, steps - length - self.warmup)
        return _after_warmup(self.peak, self.warmup, decay)


@gin.configurable
@config_class
class CosineThenLinear:
    """The paper's schedule (B.1): OLMo-2's cosine, then a straight line to zero.

    As in OLMo, update u counts as step u + 1. Its rate is (u + 1) / warmup of the peak up to step
    `warmup`. Then follows a cosine that would reach `final` of the peak at step `horizon`, far
    beyond the run. After step `decay_from` every update takes 1 / (steps - decay_from) of the
    cosine's last rate off, starting one update later; no update has a rate of zero.
    """

    peak: LearningRate
    warmup: Count
    horizon: Positive
    """Steps; fractional when it is computed from a number of tokens."""
    decay_from: Count
    """Steps before the linear decay."""
    final: Share = 0.1

    def __post_init__(self) -> None:
        if self.warmup > self.decay_from:
            raise ValueError(
                f"CosineThenLinear.decay_from must be at least warmup, {self.warmup}, "
                f"not {self.decay_from}"
            )
        if not self.decay_from <= self.horizon or self.horizon <= self.warmup:
            raise ValueError(
                f"CosineThenLinear.horizon {self.horizon!r} must lie beyond warmup and decay_from"
            )

    def over(self, steps: int) -> optax.Schedule:
        length = steps - self.decay_from
        if length < 1:
            raise ValueError(
                f"CosineThenLinear.decay_from {self.decay_from} leaves no decay in a run of "
                f"{steps} steps: lower it"
            )

        def rate(update: jax.Array) -> jax.Array:
            step = jnp.minimum(update + 1, self.decay_from)
            falling = jnp.minimum(1, (steps - update) / length)
            return self.peak * _warmed_cosine(step, self.warmup, self.horizon, self.final) * falling

        return rate


def _warmed_cosine(step: jax.Array, warmup: int, horizon: float, final: float) -> jax.Array:
    """Return the share of the peak at a step, counted from 1 and not beyond `horizon`."""
    angle = jnp.pi * (step - warmup) / (horizon - warmup)
    cosine = final + (1 - final) * (1 + jnp.cos(angle)) / 2
    return jnp.where(step < warmup, step / max(1, warmup), cosine)


def _check_length(steps: int, warmup: int, decay: int) -> None:
    if warmup + decay > steps:
        raise ValueError(
            f"{warmup} steps of warm-up and {decay} of decay do not fit a run of {steps} steps: "
            "lower the schedule's warmup or decay"
        )


def _after_warmup(peak: float, warmup: int, then: optax.Schedule) -> optax.Schedule:
    if not warmup:
        return then
    # The first update already moves: a rate of zero would waste its batch.
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, then], [warmup])
