"""How the decoder is computed: kernels, rematerialisation, micro-batches; not what it computes."""

from collections.abc import Callable
from typing import Annotated, Any

import gin
import jax

from ttoaa.config_fields import OneOf, PositiveInt, config_class
from ttoaa.model.attention import ATTENTION_OUTPUT, BLOCKS, KERNELS, Blocks

_KEEP = jax.checkpoint_policies.save_only_these_names
_MATMULS = ("query", "key", "value", "out", "gate", "up", "down")

REMAT_POLICIES: dict[str, Callable[..., Any] | None] = {
    # Keep every activation of a block for the backward pass.
    "none": None,
    # Keep the outputs of matrix products and attention; recompute norms, rotations and the gate.
    "products": _KEEP(*_MATMULS, ATTENTION_OUTPUT),
    # Keep the outputs of attention only.
    "attention": _KEEP(ATTENTION_OUTPUT),
    # Keep the input of each block only.
    "full": jax.checkpoint_policies.nothing_saveable,
}


@gin.configurable
@config_class
class Execution:
    """How the training step is computed.

    A run can be resumed under another Execution; results then agree to float tolerance.
    """

    attention: Annotated[str, OneOf(("auto", *KERNELS))] = "auto"
    """Kernel: xla, splash (TPU), cudnn (GPU), or auto, which chooses by platform."""
    blocks: Blocks = BLOCKS
    """Tile sizes of the splash kernel."""
    scan_layers: bool = False
    """Compile one block for all layers: compiles faster, runs slower on TPU."""
    remat: Annotated[str, OneOf(REMAT_POLICIES)] = "none"
    """What the backward pass recomputes: a name in REMAT_POLICIES."""
    loss_chunks: PositiveInt = 1
    """Chunks of a row in which head and cross-entropy are computed; with 1 the logits are kept."""
    microbatch: PositiveInt | None = None
    """Rows of a micro-batch; by default 2 per device on CPU (to fit its caches), else all rows."""
    compiler_options: tuple[tuple[str, str], ...] = ()
    """XLA options of the training step: (name, value) pairs."""

    def check(self, length: int) -> None:
        """Raise ValueError for settings that do not fit rows of this many tokens."""
        if length % self.loss_chunks:
            raise ValueError(
                f"Execution.loss_chunks {self.loss_chunks} must divide Geometry.length {length}"
            )


PLAIN = Execution(attention="xla")
"""Works on every platform and for every length."""


def apply_remat(block: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """Wrap a function so that its backward pass recomputes what the policy does not keep."""
    return block if policy == "none" else jax.checkpoint(block, policy=REMAT_POLICIES[policy])
