"""Optimizers: the protocol, AdamW as in OLMo-2, and any optimizer of optax by name.

The learning rate follows the run's step, not a count in the optimizer's state: updates may be
skipped (training.skip_policy) and moments may come from another run (training.init_from).
"""

import dataclasses
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

import gin
import jax
import optax

from ttoaa.config_fields import AtLeast, AtMost, Name, config_class
from ttoaa.training.lr_schedules import LearningRateSchedule


class Optimizer(Protocol):
    """A frozen dataclass that gin makes (docs/extending/optimizer.md)."""

    @property
    def schedule(self) -> LearningRateSchedule: ...

    def transformation(self, learning_rate: jax.Array) -> optax.GradientTransformation:
        """Return the transformation from gradients to updates at one learning rate, a float32[].

        It is built anew in every step, so the structure of its state must not depend on the rate.
        `update` also gets the mean loss as `value` if it takes extra arguments.
        """
        ...


def bind_schedule(optimizer: Optimizer, steps: int) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer of a run of `steps` updates; `update` also takes the run's `step`."""
    rate = optimizer.schedule.over(steps)

    def init(params: optax.Params) -> optax.OptState:
        return optimizer.transformation(rate(0)).init(params)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        step: jax.Array,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        now = optax.with_extra_args_support(optimizer.transformation(rate(step)))
        return now.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


Clip = Annotated[float, AtLeast(1e-9)] | None
"""Global norm to which gradients are clipped; None: not clipped. Smaller norms have no effect."""
Beta = Annotated[float, AtLeast(0), AtMost(0.999999)]
"""Decay of a moment. Float32 would round larger values to 1, which divides zero by zero."""


@gin.configurable
@config_class
class AdamW:
    """AdamW as in OLMo-2 1B: every parameter is decayed except the input embeddings.

    Source: decay_norm_and_bias and decay_embeddings in configs/official-0425/OLMo2-1B-stage1.yaml
    of allenai/OLMo, and get_param_groups in its olmo/optim.py.
    """

    schedule: LearningRateSchedule
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    eps: Annotated[float, AtLeast(1e-30), AtMost(1)] = 1e-8
    weight_decay: Annotated[float, AtLeast(0), AtMost(10)] = 0.1
    clip: Clip = 1.0
    """Global norm to which gradients are clipped, at least `eps`; None: not clipped."""

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip < self.eps:
            raise ValueError(
                f"AdamW.clip must be at least eps, {self.eps}, or None, not {self.clip}: "
                "smaller gradients have no effect"
            )

    def transformation(self, learning_rate: jax.Array) -> optax.GradientTransformation:
        return optax.chain(
            optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip),
            optax.chain(
                optax.scale_by_adam(self.beta1, self.beta2, self.eps),
                optax.add_decayed_weights(
                    self.weight_decay,
                    mask=lambda params: {name: name != "embedding" for name in params},
                ),
                optax.scale(-learning_rate),
            ),
        )


@gin.configurable
@config_class
class Optax:
    """An optimizer of optax by name, such as 'lion' or 'contrib.muon', after gradient clipping."""

    schedule: LearningRateSchedule
    name: Name
    """Of a function in optax that takes `learning_rate`."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Its other arguments. Weight decay applies to every parameter, input embeddings included."""
    clip: Clip = 1.0
    """Largest global norm of the gradient; None: any."""

    def __post_init__(self) -> None:
        try:
            inspect.signature(self._factory).bind(learning_rate=0.1, **self.options)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"Optax.name {self.name!r} with Optax.options: {error}") from error

    @property
    def _factory(self) -> Callable[..., optax.GradientTransformation]:
        return operator.attrgetter(self.name)(optax)

    def transformation(self, learning_rate: jax.Array) -> optax.GradientTransformation:
        made = self._factory(learning_rate=learning_rate, **self.options)
        if self.clip is None:
            return made
        return optax.chain(optax.clip_by_global_norm(self.clip), made)
