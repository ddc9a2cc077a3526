"""The training step of one study on one mesh: what is compiled, started and lowered alike.

The trainer runs it, ttoaa.compile lowers it for pods that are not there, benchmarks time it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ttoaa.data.geometry import Geometry
from ttoaa.model.attention import choose_kernel
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.execution import Execution
from ttoaa.model.sharding import (
    LOGICAL,
    PARAMETERS,
    batch_sharding,
    row_parts,
    shardings,
    with_shardings,
)
from ttoaa.training.config import Training
from ttoaa.training.step import State, init_state, make_step


@dataclasses.dataclass(frozen=True)
class Program:
    """One (model, training, execution, geometry) on one mesh; ValueError where they do not fit."""

    model: DecoderConfig
    training: Training
    geometry: Geometry
    execution: Execution
    """As asked; `resolved` says what is run."""
    mesh: Mesh

    def __post_init__(self) -> None:
        _check_divides(self.model, self.mesh)
        _ = self.resolved

    @functools.cached_property
    def resolved(self) -> Execution:
        """The execution with what it left open settled for the platform of the mesh."""
        platform, parts = self.mesh.devices.flat[0].platform, row_parts(self.mesh)
        batch = self.geometry.batch
        if batch % parts:
            raise ValueError(
                f"a batch of {batch} rows cannot be cut into {parts} equal parts (data x fsdp "
                f"of the mesh {dict(self.mesh.shape)}): change Geometry.batch or Layout"
            )
        if self.geometry.length % self.execution.loss_chunks:
            raise ValueError(
                f"Execution.loss_chunks {self.execution.loss_chunks} must divide Geometry.length "
                f"{self.geometry.length}"
            )
        late = [s for s in self.training.keep.milestones if s > self.geometry.steps]
        if late:
            raise ValueError(f"Keep.milestones has {late[0]}, beyond {self.geometry.steps} steps")
        asked = self.execution.microbatch
        default = 2 * parts if platform == "cpu" and batch % (2 * parts) == 0 else batch
        rows = asked or default
        if batch % rows or rows % parts:
            raise ValueError(
                f"Execution.microbatch {rows} must divide the batch of {batch} rows and be a "
                f"multiple of {parts}, the parts that the rows are cut into"
            )
        kernel = choose_kernel(
            self.execution.attention,
            platform,
            self.model.dtype,
            self.geometry.length,
            self.model.head_width,
        )
        return dataclasses.replace(self.execution, attention=kernel, microbatch=rows)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        return self.training.optimizer.over(self.geometry.steps)

    @functools.cached_property
    def state(self) -> State:
        """Shapes, types and shardings of the state."""
        abstract = jax.eval_shape(lambda: self._fresh(0))
        return with_shardings(abstract, shardings(self.mesh, abstract))

    @functools.cached_property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, types and shardings of a batch."""
        rows, length = self.geometry.batch, self.geometry.length
        sharding = batch_sharding(self.mesh)
        tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=sharding)
        trained = jax.ShapeDtypeStruct((rows,), jnp.bool_, sharding=sharding)
        return {"tokens": tokens, "arms": tokens, "trained": trained}

    def _fresh(self, seed: int) -> State:
        return init_state(self.model, self.training, self.optimizer, seed)

    def init(self, seed: int) -> State:
        """A fresh state, each leaf made where it lies: the same bits on any mesh."""
        where = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        with jax.set_mesh(self.mesh):
            return jax.jit(lambda: self._fresh(seed), out_shardings=where)()

    def lower(self) -> jax.stages.Lowered:
        """The step, for devices that need not be there."""
        step = make_step(
            self.model,
            self.training,
            self.resolved,
            self.optimizer,
            self.geometry.steps,
        )
        replicated = NamedSharding(self.mesh, P())
        where = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        with jax.set_mesh(self.mesh):
            jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, replicated))
            return jitted.lower(self.state, self.batch)

    def compile(self) -> Any:
        """step(state, batch) -> (state, metrics); the state is donated."""
        options = dict(self.execution.compiler_options)
        try:
            return self.lower().compile(compiler_options=options or None)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(f"XLA refuses the step: {str(error).splitlines()[0]}") from error


def _check_divides(model: DecoderConfig, mesh: Mesh) -> None:
    sizes = {
        "vocab": ("vocab_size", model.vocab_size),
        "embed": ("width", model.width),
        "heads": ("kv_heads", model.num_kv_heads),
        "hidden": ("hidden", model.hidden),
    }
    for logical in {axis for axes in PARAMETERS.values() for axis in axes}:
        axis = LOGICAL[logical]
        name, size = sizes[str(logical)]
        if isinstance(axis, str) and size % mesh.shape[axis]:
            raise ValueError(
                f"DecoderConfig.{name} {size} does not divide by the {mesh.shape[axis]} devices of "
                f"the {axis} axis: change it or Layout.{axis}"
            )
