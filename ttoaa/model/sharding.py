"""Which part of what lies on which device: a mesh, and one table from logical to mesh axes.

Pure data parallelism, fully sharded data parallelism (FSDP) and tensor parallelism are sizes of the
three mesh axes, and nothing else in the code knows them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")

LOGICAL: dict[str | None, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "heads": "tensor",
    "hidden": "tensor",
    "vocab": "tensor",
    None: None,
}

# By a parameter's own name, so that Adam's moments, which bear it too, lie where it lies.
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
@dataclasses.dataclass(frozen=True)
class Layout:
    """How many devices each mesh axis has; the product must be the number of devices."""

    data: int | None = None
    """Replicas of the parameters; by default what the other axes leave."""
    fsdp: int = 1
    """Parts that parameters, moments and gradients are cut into along the width."""
    tensor: int = 1
    """Parts that heads, hidden units and the vocabulary are cut into."""
    slices: int = 1
    """TPU slices joined by the data-centre network; the data axis runs across them."""

    def __post_init__(self) -> None:
        for name in ("fsdp", "tensor", "slices"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"Layout.{name} must be a positive integer")
        if self.data is not None and (self.data < 1 or self.data % self.slices):
            raise ValueError("Layout.data must be a positive multiple of Layout.slices, or None")

    def shape(self, devices: int) -> tuple[int, int, int]:
        """(data, fsdp, tensor) of a mesh of so many devices; ValueError where it does not fit."""
        data = self.data or devices // (self.fsdp * self.tensor)
        if data * self.fsdp * self.tensor != devices or data % self.slices:
            raise ValueError(
                f"{devices} devices cannot be laid out as data={self.data or 'rest'}, "
                f"fsdp={self.fsdp}, tensor={self.tensor}, slices={self.slices}: set Layout so that "
                "the product is the number of devices"
            )
        return data, self.fsdp, self.tensor


def make_mesh(layout: Layout, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor, laid along the network between the devices."""
    devices = jax.devices() if devices is None else devices
    data, fsdp, tensor = layout.shape(len(devices))
    if layout.slices > 1:
        inner, outer = (data // layout.slices, fsdp, tensor), (layout.slices, 1, 1)
        # Devices without a slice of their own (CPU, GPU) are split by process.
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
    return P(*(LOGICAL[axis] for axis in logical))


def shardings(mesh: Mesh, tree: Any) -> Any:
    """A NamedSharding for each leaf of a tree of (or over) parameters; unknown ones replicated."""

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        axes = PARAMETERS.get(getattr(path[-1], "key", ""), ()) if path else ()
        return NamedSharding(mesh, spec(*axes))

    return jax.tree_util.tree_map_with_path(one, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of [B, …]: rows over data and fsdp."""
    return NamedSharding(mesh, spec("batch"))


def constrain(x: jax.Array, *logical: str | None) -> jax.Array:
    """Lays an intermediate result out over the mesh in context; nothing where there is none."""
    if shared_mesh() is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec(*logical))


def shared_mesh() -> AbstractMesh | None:
    """The mesh in context; None where there is none, or a device works for itself (shard_map)."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.manual_axes else mesh


def row_parts(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts the rows of a batch are cut."""
    return math.prod(mesh.shape[axis] for axis in LOGICAL["batch"] or ())


def with_shardings(tree: Any, placed: Any) -> Any:
    """The abstract tree, each leaf with its sharding."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        tree,
        placed,
    )
