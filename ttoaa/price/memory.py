"""The least memory that training needs on a chip, by arithmetic.

It has weights, the optimizer's state and gradients, and of the activations those that the backward
pass reads: inputs and outputs of matrix products, and the logits. The compiler's figure
(`ttoaa compile`) is 1 to 80% higher for the pods in docs/results.md.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType

from ttoaa.config import Study
from ttoaa.model.decoder import DecoderConfig, abstract_params
from ttoaa.model.sharding import AXES, row_parts, shardings
from ttoaa.price.hardware import Hardware
from ttoaa.training.optimizer import bind_schedule

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class LeastMemory:
    """GiB of one device."""

    state: float
    """Weights, optimizer state and gradients."""
    activations: float
    """Of one micro-batch, with its logits."""
    rows: int
    """Rows of a micro-batch on one device."""
    parts: int
    """Devices that the rows of a micro-batch are cut over."""
    capacity: float

    @property
    def total(self) -> float:
        return self.state + self.activations

    @property
    def fitting_microbatch(self) -> int:
        """The largest micro-batch that may fit, a power of two of rows per device; 0 for none."""
        room = (self.capacity - self.state) / (self.activations / self.rows)
        return self.parts * 2 ** int(math.log2(room)) if room >= 1 else 0


def least_memory(study: Study, hardware: Hardware) -> LeastMemory:
    """Return the least memory of a training step on one device of the hardware.

    Raises:
        ValueError: the study's layout or batch cannot be cut into that many parts.
    """
    mesh = AbstractMesh(
        study.layout.shape(hardware.devices), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )
    parts, batch = row_parts(mesh), study.geometry.batch
    if batch % parts:
        raise ValueError(
            f"a batch of {batch} rows cannot be cut into {parts} equal parts on {hardware.name}: "
            "change Geometry.batch or Layout"
        )
    rows = study.execution.microbatch or batch
    if batch % rows or rows % parts:
        raise ValueError(
            f"Execution.microbatch {rows} must divide the batch of {batch} rows and be a multiple "
            f"of {parts}, the parts that the rows are cut into on {hardware.name}"
        )
    params = abstract_params(study.model)
    optimizer = bind_schedule(study.training.optimizer, study.geometry.steps)
    moments = jax.eval_shape(optimizer.init, params)
    # Gradients are as large as the weights.
    leaves = [*_sharded(mesh, params), *_sharded(mesh, params), *_sharded(mesh, moments)]
    tokens = rows // parts * study.geometry.length
    of_token = _saved_bytes(study) / mesh.shape["tensor"]
    return LeastMemory(
        sum(math.prod(shape) * size for shape, size in leaves) / GIB,
        tokens * of_token / GIB,
        rows // parts,
        parts,
        hardware.chip.memory_gib / hardware.chip.devices,
    )


def _sharded(mesh: AbstractMesh, tree: Any) -> Sequence[tuple[tuple[int, ...], int]]:
    """Return the shape on one device and the bytes per element of every leaf."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings(mesh, tree)), strict=True)
    return [(where.shard_shape(leaf.shape), leaf.dtype.itemsize) for leaf, where in pairs]


def _saved_bytes(study: Study) -> int:
    """Return the bytes that one token keeps for the backward pass, of all layers and the logits."""
    model, execution = study.model, study.execution
    elements = model.layers * _saved_elements(model, execution.remat)
    if execution.loss_chunks == 1:
        elements += model.vocab_size
    return elements * jax.numpy.dtype(model.dtype).itemsize


def _saved_elements(model: DecoderConfig, remat: str) -> int:
    """Return how many activations of a token one layer keeps (see `REMAT_POLICIES`)."""
    width, hidden = model.width, model.hidden
    keys = 2 * model.num_kv_heads * model.head_width
    products = 2 * width + keys + 2 * hidden + width  # query, out, keys and values, gate, up, down
    return {
        "none": products + 2 * width + hidden,  # attention and the products' other inputs
        "products": products + 2 * width,  # attention and the input of the layer
        "attention": 2 * width,
        "full": width,
    }[remat]
