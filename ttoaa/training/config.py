"""What a training run is made with: optimizer, schedule, and how often it looks at itself."""

import dataclasses
from typing import Any, Protocol

import gin
import jax
import jax.numpy as jnp
import optax

from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.training.checkpoints import Keep
from ttoaa.training.skip_policy import Guard


class Schedule(Protocol):
    """A learning rate over the updates of a run."""

    @property
    def peak(self) -> float: ...

    def over(self, steps: int) -> optax.Schedule:
        """Learning rate of update number u = 0 .. steps - 1."""
        ...


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to `final` times the peak at the last step."""

    peak: float
    warmup: int
    final: float = 0.1

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup)

    def over(self, steps: int) -> optax.Schedule:
        _check_fits(steps, self.warmup, 1)
        decay = optax.cosine_decay_schedule(self.peak, steps - self.warmup, self.final)
        return _after_warmup(self.peak, self.warmup, decay)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ConstantLinear:
    """Linear warm-up, constant, then linearly to zero over the last `decay` part of the run.

    The faithful shape of the paper's schedule at small scale: its cosine is still at 99.7% of the
    peak when the linear decay begins (appendix B.1).
    """

    peak: float
    warmup: int
    decay: float = 0.1

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup)
        if not 0 <= self.decay <= 1:
            raise ValueError(f"ConstantLinear.decay is a part of the run, not {self.decay}")

    def over(self, steps: int) -> optax.Schedule:
        length = max(1, round(steps * self.decay))
        _check_fits(steps, self.warmup, length)
        decay = optax.linear_schedule(self.peak, 0.0, length, steps - length - self.warmup)
        return _after_warmup(self.peak, self.warmup, decay)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class CosineThenLinear:
    """The paper's schedule (B.1): OLMo-2's cosine, left for a straight line to zero at the end.

    Update u = 0, 1, … counts as step u + 1, as in OLMo: its rate is (u + 1) / warmup of the peak
    up to step `warmup`, then a cosine that starts there and would reach `final` of the peak at step
    `horizon`, far beyond the run. The update after step `decay_from` has the cosine's last rate,
    each later one 1 / (steps - decay_from) of that less, and none has a rate of zero.
    """

    peak: float
    warmup: int
    horizon: float
    """Steps; a fraction where it comes from a number of tokens."""
    decay_from: int
    """Steps before the linear decay."""
    final: float = 0.1

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup)
        if not isinstance(self.decay_from, int) or not self.warmup <= self.decay_from:
            raise ValueError(
                "CosineThenLinear.decay_from must be a number of steps from warmup on, not "
                f"{self.decay_from!r}"
            )
        if not self.decay_from <= self.horizon or self.horizon <= self.warmup:
            raise ValueError(
                f"CosineThenLinear.horizon {self.horizon!r} must lie beyond warmup and decay_from"
            )

    def over(self, steps: int) -> optax.Schedule:
        length = steps - self.decay_from
        if length < 1:
            raise ValueError(
                f"CosineThenLinear.decay_from {self.decay_from} leaves no decay to a run of "
                f"{steps} steps: lower it"
            )

        def rate(update: jax.Array) -> jax.Array:
            step = jnp.minimum(update + 1, self.decay_from)
            angle = jnp.pi * (step - self.warmup) / (self.horizon - self.warmup)
            cosine = self.final + (1 - self.final) * (1 + jnp.cos(angle)) / 2
            rising = step / max(1, self.warmup)
            falling = jnp.minimum(1, (steps - update) / length)
            return self.peak * jnp.where(step < self.warmup, rising, cosine) * falling

        return rate


@gin.configurable
@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW as OLMo-2 1B has it: all is decayed, norms and head too, but the input embeddings.

    Source: decay_norm_and_bias and decay_embeddings in configs/official-0425/OLMo2-1B-stage1.yaml
    of allenai/OLMo, and get_param_groups in its olmo/optim.py.
    """

    schedule: Schedule
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest global norm of the gradient."""

    def over(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """Its `update` takes the run's `step` beside gradients, state and parameters.

        So the rate follows the run, where updates are skipped (training.skip_policy) or moments
        came from another one; Adam's own count is of the updates in its moments.
        """
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.chain(
                optax.scale_by_adam(self.beta1, self.beta2, self.eps),
                optax.add_decayed_weights(
                    self.weight_decay,
                    mask=lambda params: {name: name != "embedding" for name in params},
                ),
                _descend(self.schedule.over(steps)),
            ),
        )


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Training:
    """Numerics first: `checkpoint_every` and below change no bit of the model."""

    optimizer: AdamW
    z_loss: float = 1e-5
    """Weight of the mean squared log-partition (PaLM; OLMo-2)."""
    max_arms: int = 1024
    """Segments of the loss per arm: fixed, so that more arms change no bit of the model."""
    repetition_filter: RepetitionFilter | None = None
    """Rows that are not trained on; none where None."""
    guard: Guard = dataclasses.field(default_factory=Guard)
    """May change when a run goes on, but for its window."""
    checkpoint_every: int = 1000
    keep: Keep = dataclasses.field(default_factory=Keep)
    """Checkpoints that stay; its milestones are also saved where `checkpoint_every` has none."""
    validate_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("max_arms", "checkpoint_every", "validate_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"Training.{name} must be a positive integer")

    def numerics(self) -> dict[str, Any]:
        """Return the parts that a checkpoint can only be continued with, unchanged."""
        names = ("optimizer", "z_loss", "repetition_filter")
        return {name: getattr(self, name) for name in names}


def _descend(schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    def update(
        updates: optax.Updates, state: Any, params: Any = None, *, step: jax.Array, **_: Any
    ) -> tuple[optax.Updates, Any]:
        rate = schedule(step)
        return jax.tree.map(lambda u: -rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _check(peak: float, warmup: int) -> None:
    if not isinstance(peak, int | float) or peak <= 0:
        raise ValueError(f"a schedule's peak must be a positive number, not {peak!r}")
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"a schedule's warmup must be a number of steps, not {warmup!r}")


def _check_fits(steps: int, warmup: int, decay: int) -> None:
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
