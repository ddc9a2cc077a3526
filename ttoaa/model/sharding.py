"""The device mesh, and one table from logical array axes to mesh axes.

Data parallelism, fully sharded data parallelism (FSDP) and tensor parallelism are the sizes of the
three mesh axes. No other module names these axes.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ttoaa.config_fields import PositiveInt, config_class

AXES = ("data", "fsdp", "tensor")

LOGICAL: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "hidden": "tensor",
    "vocab": "tensor",
    None: None,
}

# Keyed by the last part of a parameter's path, which Adam's moments share: they are sharded alike.
PARAMETERS: dict[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "embed"),
    "query": ("embed", "heads"),
    "key": ("embed", "heads"),
    "value": ("embed", "heads"),
    "out": ("heads", "embed"),
    "gate": ("embed", "hidden"),
    "up": ("embed", "hidden"),
    "down": ("hidden", "embed"),
    "head": ("embed", "vocab"),
}


@gin.configurable
@config_class
class Layout:
    """Sizes of the mesh axes; their product must be the number of devices."""

    data: PositiveInt | None = None
    """Replicas of the parameters; by default all devices that the other axes leave."""
    fsdp: PositiveInt = 1
    """Shards of parameters, moments and gradients along the width."""
    tensor: PositiveInt = 1
    """Shards of heads, hidden units and vocabulary."""
    slices: PositiveInt = 1
    """TPU slices joined by the data-centre network; the data axis spans them."""

    def __post_init__(self) -> None:
        if self.data is not None and self.data % self.slices:
            raise ValueError("Layout.data must be a multiple of Layout.slices, or None")

    def shape(self, devices: int) -> tuple[int, int, int]:
        """Return (data, fsdp, tensor) for this number of devices.

        Raises:
            ValueError: the sizes do not multiply to it.
        """
        data = self.data or devices // (self.fsdp * self.tensor)
        if data * self.fsdp * self.tensor != devices or data % self.slices:
            raise ValueError(
                f"{devices} devices cannot be laid out as data={self.data or 'rest'}, "
                f"fsdp={self.fsdp}, tensor={self.tensor}, slices={self.slices}: set Layout so that "
                "the product is the number of devices"
            )
        return data, self.fsdp, self.tensor


def make_mesh(layout: Layout, devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh with the axes data, fsdp and tensor that follows the devices' network."""
    devices = jax.devices() if devices is None else devices
    data, fsdp, tensor = layout.shape(len(devices))
    if layout.slices > 1:
        inner, outer = (data // layout.slices, fsdp, tensor), (layout.slices, 1, 1)
        # Devices that belong to no slice (CPU, GPU) are grouped by process.
        by_process = getattr(devices[0], "slice_index", None) is None
        try:
            grid = mesh_utils.create_hybrid_device_mesh(
                inner, outer, devices, process_is_granule=by_process
            )
        except ValueError as error:
            raise ValueError(f"Layout.slices={layout.slices}: {error}") from error
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(
            (data, fsdp, tensor), devices, allow_split_physical_axes=True
        )
    else:
        grid = np.asarray(devices).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(*logical: str | None) -> P:
    """Return the PartitionSpec of an array with these logical axes."""
    return P(*(LOGICAL[axis] for axis in logical))


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Return a NamedSharding per leaf of a tree of parameters, or of an optimizer's state.

    A leaf is laid out like the parameter that its path ends in. Leaves with other names are
    replicated; so are those with another number of axes (a factored second moment, say) or with an
    axis that the mesh cannot split.
    """

    def leaf_sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        axes = PARAMETERS.get(getattr(path[-1], "key", ""), ()) if path else ()
        parts = [mesh.shape[part] for part in spec(*axes)]
        fits = len(parts) == leaf.ndim and not any(map(operator.mod, leaf.shape, parts))
        return NamedSharding(mesh, spec(*axes) if fits else P())

    return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch [B, ...]: its rows over data and fsdp."""
    return NamedSharding(mesh, spec("batch"))


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Shard an intermediate array over the mesh in context, if there is one."""
    if shared_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*logical))


def shared_mesh() -> AbstractMesh | None:
    """Return the mesh in context; None without one and inside shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.manual_axes else mesh


def row_parts(mesh: Mesh | AbstractMesh) -> int:
    """Return the number of shards of a batch's rows."""
    return math.prod(mesh.shape[axis] for axis in LOGICAL["batch"] or ())


def with_shardings(tree: Any, leaf_shardings: Any) -> Any:
    """Return the abstract tree with a sharding for each leaf."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        leaf_shardings,
    )
