"""The devices of a pod that is not there, as libtpu describes them."""

import importlib.util
import os
from typing import Any

import jax


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
