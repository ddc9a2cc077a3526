"""The devices of a pod that is not there, as libtpu describes them.

What is known of each TPU, per device as a running JAX counts them.
"""

import dataclasses
import importlib.util
import os
from typing import Any

import jax

from ttoaa.training.throughput import PEAK_FLOPS


def devices(topology: str, slices: int = 1) -> list[Any]:
    """Devices to lay a mesh over and to compile for; `cpu:N` gives N of this machine's.

    Raises ValueError where libtpu is missing or does not know the name. To be called before JAX has
    a backend: no TPU that this machine may have is touched.
    """
    kind, _, shape = topology.partition(":")
    if kind == "cpu" and shape.isdecimal():
        return _cpus(int(shape))
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for TPUs needs libtpu, which is not installed: pip install 'ttoaa[tpu]'"
        )
    # libtpu reads these when it is loaded, below: ask no metadata server, take no lock.
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    quiet |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.update({name: os.environ.get(name, value) for name, value in quiet.items()})
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    # JAX on a v4 takes a chip as one device, as libtpu does by itself for later ones.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    options |= {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        ).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"libtpu knows no topology {topology!r} ({str(error).splitlines()[0]}): names are like "
            "v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16"
        ) from error
    return list(found)


def chips(found: list[Any]) -> int:
    """How many chips the devices are on."""
    places = {
        (getattr(d, "slice_index", None), tuple(getattr(d, "coords", (d.id,)))) for d in found
    }
    return len(places)


def _cpus(count: int) -> list[Any]:
    jax.config.update("jax_platforms", "cpu")
    if len(jax.devices()) < count:
        raise ValueError(
            f"there are {len(jax.devices())} CPU devices, not {count}: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return jax.devices()[:count]


@dataclasses.dataclass(frozen=True)
class Chip:
    peak_flops: float
    """bf16 FLOP/s."""
    hbm_gib: float
    """What a program may take of the memory."""
    hbm_bandwidth: float
    """bytes/s."""
    link: float
    """bytes/s that one link of the torus carries in one direction."""
    clock: float
    """Hz: the peak over what the matrix units do in a cycle."""
    ring: int
    """Chips along an axis from which on the torus closes."""


# Bandwidths and topologies: cloud.google.com/tpu/docs, the page of each generation. Memory: what
# libtpu 0.0.42 says is there when a program is too large. Links: a sixth (3D torus) or a quarter
# (2D) of a chip's published interconnect, of which nine tenths are usable according to "How to
# Scale Your Model" (jax-ml.github.io/scaling-book/tpus). Clocks: a cycle is 8 (v4, v5p) or 4 (v5e,
# v6e) systolic arrays of 128 x 128 (v6e: 256 x 256) multiply-adds.
CHIPS = {
    "TPU v4": Chip(PEAK_FLOPS["TPU v4"], 30.75, 1.228e12, 45e9, 1.05e9, 4),
    "TPU v5": Chip(PEAK_FLOPS["TPU v5"], 95.74, 2.765e12, 90e9, 1.75e9, 4),
    "TPU v5 lite": Chip(PEAK_FLOPS["TPU v5 lite"], 15.75, 0.819e12, 45e9, 1.5e9, 16),
    "TPU v6 lite": Chip(PEAK_FLOPS["TPU v6 lite"], 31.25, 1.64e12, 90e9, 1.75e9, 16),
}
