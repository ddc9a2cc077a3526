"""The training section of a study's config."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import gin

from ttoaa.config_fields import AtLeast, AtMost, PositiveInt, Share, config_class
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.training.checkpoints import Keep
from ttoaa.training.metrics import Metric, check_metrics
from ttoaa.training.optimizer import Optimizer, bind_schedule
from ttoaa.training.skip_policy import Guard


@gin.configurable
@config_class
class Training:
    """How a run trains. `checkpoint_every` and the fields below it change no bit of the model."""

    optimizer: Optimizer
    z_loss: Share = 1e-5
    """Weight of the mean squared log-partition (PaLM; OLMo-2)."""
    loss_divisor: Literal["targets", "tokens"] = "targets"
    """Divisor of the summed loss and z-loss of a batch. 'targets': the predicted tokens, L - 1 in
    each row that the repetition filter does not mask. 'tokens': all B * L tokens, as in OLMo
    (batch_size_in_tokens in olmo/train.py); a masked row then lowers the loss and its gradient."""
    max_arms: Annotated[int, AtLeast(1), AtMost(2**16)] = 1024
    """Segments of the loss per arm: fixed, so that more arms change no bit of the model."""
    repetition_filter: RepetitionFilter | None = None
    """Which rows are not trained on; None: train on all."""
    guard: Guard = dataclasses.field(default_factory=Guard)
    """May change when a run is resumed, except for its window."""
    checkpoint_every: PositiveInt = 1000
    keep: Keep = dataclasses.field(default_factory=Keep)
    """Which checkpoints stay; its milestones and log-spaced steps are saved in addition to
    `checkpoint_every`."""
    validate_every: PositiveInt = 1000
    metrics: Sequence[Metric] = ()
    """Scalars of every step that are logged in addition to the built-in ones."""

    def __post_init__(self) -> None:
        check_metrics(self.metrics)

    def check(self, steps: int) -> None:
        """Raise ValueError for settings that do not fit a run of this many steps."""
        bind_schedule(self.optimizer, steps)
        late = [step for step in self.keep.milestones if step > steps]
        if late:
            raise ValueError(f"Keep.milestones has {late[0]}, beyond {steps} steps")

    def checkpoint_steps(self, steps: int) -> frozenset[int]:
        """Return the steps at which a run of this many steps saves; the last is one of them."""
        regular = range(self.checkpoint_every, steps + 1, self.checkpoint_every)
        return frozenset({*regular, *self.keep.saved(steps), steps})

    def numerics(self) -> dict[str, Any]:
        """Return the parts that a checkpoint can only be continued with, unchanged."""
        names = ("optimizer", "z_loss", "loss_divisor", "repetition_filter")
        return {name: getattr(self, name) for name in names}
