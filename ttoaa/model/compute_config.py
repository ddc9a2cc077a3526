"""How a decoder is computed, not what: settings that change the last bits at most."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gin
import jax

from ttoaa.model.attention import BLOCKS, KERNELS, RESIDUAL, Blocks

_KEEP = jax.checkpoint_policies.save_only_these_names
_PRODUCTS = ("query", "key", "value", "out", "gate", "up", "down")

POLICIES: dict[str, Callable[..., Any] | None] = {
    # Keep every activation of a block for the backward pass.
    "none": None,
    # Keep what matrices and attention gave; norms, rotations and the gate are computed again.
    "products": _KEEP(*_PRODUCTS, RESIDUAL),
    # Keep the results of attention alone.
    "attention": _KEEP(RESIDUAL),
    # Keep a block's input alone.
    "full": jax.checkpoint_policies.nothing_saveable,
}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Execution:
    """A checkpoint made under one can be continued under another, to float tolerance."""

    attention: str = "auto"
    """Kernel: xla, splash (TPU), cudnn (GPU), or auto, which picks by platform."""
    blocks: Blocks = BLOCKS
    """Tile sizes of splash."""
    scan_layers: bool = False
    """One compiled block for all layers: compiles faster, runs slower on TPU."""
    remat: str = "none"
    """What is computed again in the backward pass: a name in POLICIES."""
    loss_chunks: int = 1
    """Pieces of a row's positions for head and cross-entropy; with 1 the logits are kept."""
    microbatch: int | None = None
    """Rows of one pass in a step; by default 2 a device on CPU (its caches), else the batch."""
    compiler_options: tuple[tuple[str, str], ...] = ()
    """XLA options of the training step: (name, value) pairs."""

    def __post_init__(self) -> None:
        if self.attention not in ("auto", *KERNELS):
            raise ValueError(
                f"Execution.attention is auto, {', '.join(KERNELS)}, not {self.attention!r}"
            )
        if self.remat not in POLICIES:
            raise ValueError(f"Execution.remat is {', '.join(POLICIES)}, not {self.remat!r}")
        if not isinstance(self.loss_chunks, int) or self.loss_chunks < 1:
            raise ValueError("Execution.loss_chunks must be a positive integer")
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError("Execution.microbatch must be a positive integer or None")


PLAIN = Execution(attention="xla")
"""What works everywhere, for any length."""


def rematerialised(block: Callable[..., Any], policy: str) -> Callable[..., Any]:
    """The same function; its backward pass computes again what the policy does not keep."""
    return block if policy == "none" else jax.checkpoint(block, policy=POLICIES[policy])
