"""The place of this process among the machines of a TPU slice, by Compute Engine's metadata.

JAX finds it by the attribute `agent-worker-number`, which the Cloud TPU API sets. Machines that
were created through Compute Engine have been seen with `worker-id` and with TPU_WORKER_ID in
`tpu-env` instead.
"""

import os
import urllib.error
import urllib.request

_PORT = 8482


def find_place() -> tuple[str, int, int] | None:
    """Return (coordinator, number of machines, index of this one); None without other machines.

    Raises:
        ValueError: the slice has several machines, and the metadata does not number them.
    """
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # JAX sets it on machines without TPU chips
        return None
    machines = _attribute("worker-network-endpoints").split(",")
    if len(machines) < 2:
        return None
    number = _attribute("worker-id") or _tpu_environment().get("TPU_WORKER_ID", "")
    if not number.isdecimal():
        raise ValueError(
            f"this machine is one of {len(machines)} of a TPU slice, and its metadata does not "
            "number them: pass --coordinator, --num_processes and --process_id"
        )
    # A name, or "unknown:unknown:10.0.0.2".
    return f"{machines[0].split(':')[-1]}:{_PORT}", len(machines), int(number)


def _tpu_environment() -> dict[str, str]:
    """Return the lines of `tpu-env`, such as TPU_WORKER_ID: '0'."""
    pairs = (line.partition(":") for line in _attribute("tpu-env").splitlines())
    return {name.strip(): value.strip().strip("'") for name, _, value in pairs}


def _attribute(name: str) -> str:
    """Return an attribute of this machine, or an empty text if it does not exist."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(response.read().decode()).strip()
    except urllib.error.URLError:
        return ""
