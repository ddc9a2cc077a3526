"""TPU topologies as libtpu describes them, without the hardware."""

import importlib.util
import os
from typing import Any

import jax


def devices(topology: str, slices: int = 1) -> list[Any]:
    """Return the topology's devices, to make a mesh of and to compile for.

    `cpu:N` stands for N devices of this machine. Call it before JAX has a backend; a TPU of this
    machine is left alone.

    Raises:
        ValueError: libtpu is not installed or does not know the topology.
    """
    kind, _, shape = topology.partition(":")
    if kind == "cpu" and shape.isdecimal():
        return _cpu_devices(int(shape))
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for TPUs needs libtpu, which is not installed: pip install 'ttoaa[tpu]'"
        )
    # libtpu reads these when it is loaded: no metadata server, no lock on a TPU.
    offline = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    offline |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ.update({name: os.environ.get(name, value) for name, value in offline.items()})
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    # A running JAX counts a v4 chip as one device; libtpu does so by itself for later chips only.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    options |= {"num_slices": slices} if slices > 1 else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"libtpu knows no topology {topology!r} ({str(error).splitlines()[0]}): names are like "
            "v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16"
        ) from error
    return list(description.devices)


def count_chips(devices: list[Any]) -> int:
    """Count the chips that the devices are on; some chips hold two devices."""
    places = {
        (getattr(d, "slice_index", None), tuple(getattr(d, "coords", (d.id,)))) for d in devices
    }
    return len(places)


def _cpu_devices(count: int) -> list[Any]:
    jax.config.update("jax_platforms", "cpu")
    if len(jax.devices()) < count:
        raise ValueError(
            f"JAX has {len(jax.devices())} CPU devices, not {count}: set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return jax.devices()[:count]
