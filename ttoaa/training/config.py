"""What a training run is made with: optimizer, schedule, and how often it looks at itself."""

import dataclasses
from typing import Protocol

import gin
import optax


class Schedule(Protocol):
    """A learning rate over the updates of a run."""

    peak: float

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
class AdamW:
    """AdamW as OLMo-2 1B has it; the input embeddings are not decayed."""

    schedule: Schedule
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest global norm of the gradient."""

    def over(self, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(
                self.schedule.over(steps),
                self.beta1,
                self.beta2,
                self.eps,
                weight_decay=self.weight_decay,
                mask=lambda params: {name: name != "embedding" for name in params},
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
    microbatch: int | None = None
    """Rows of one pass inside a step; by default 2 on CPU (its caches), else the whole batch."""
    checkpoint_every: int = 1000
    validate_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("max_arms", "checkpoint_every", "validate_every"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"Training.{name} must be a positive integer")
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError("Training.microbatch must be a positive integer or None")

    def numerics(self) -> str:
        """What a checkpoint may only be continued with."""
        return f"{self.optimizer!r} z_loss={self.z_loss} microbatch={self.microbatch}"


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
