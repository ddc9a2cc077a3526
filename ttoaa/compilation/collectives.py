"""Collectives of a compiled module: bytes sent by kind, and their time on a torus."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from ttoaa.accelerators import Chip
from ttoaa.compilation.hlo import Array, Computation, Module, Operation

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a module."""

    kind: str
    sent: float
    """Bytes that one device sends, by a ring algorithm, which sends least."""
    groups: np.ndarray
    """int[groups, devices per group]: partitions that exchange data with each other."""
    times: int
    """How often it runs in one call of the module."""
    hidden: bool
    """Whether the compiler overlapped it with arithmetic."""


def collective_kind(operation: Operation) -> str | None:
    """Return the kind of a collective or of its asynchronous start; None for other operations."""
    name = operation.opcode.removesuffix("-start")
    return name if name in KINDS else None


def find_collectives(module: Module, devices: int) -> list[Collective]:
    """Find all collectives in one call of the module, also asynchronous ones and in fusions."""
    found = []
    for launch in module.launches:
        outer = launch.operation
        parts = [(outer, launch.within), *module.inside(outer)]
        has_matmul = any(part.is_matmul for part, _ in parts)
        for part, within in parts:
            kind = collective_kind(part)
            if not kind:
                continue
            hidden = has_matmul or "-start" in outer.opcode
            if part is not outer and kind == "all-reduce" and _is_sliced(within):
                kind = "reduce-scatter"  # XLA:TPU writes it as a fusion of these two
            groups = _parse_groups(part, devices)
            sent = _bytes_sent(kind, part, within, groups.shape[1])
            found.append(Collective(kind, sent, groups, launch.times, hidden))
    return found


def _is_sliced(body: Computation) -> bool:
    return any(op.root and op.opcode == "dynamic-slice" for op in body.values())


def _bytes_sent(kind: str, operation: Operation, within: Computation, members: int) -> float:
    operands = sum(_num_bytes(within[name].arrays) for name in operation.operands)
    others = (members - 1) / members
    return {
        "all-gather": operands * (members - 1),
        "all-reduce": 2 * operands * others,
        "reduce-scatter": operands * others,
        "all-to-all": operands * others,
        "ragged-all-to-all": operands * others,
    }.get(kind, operands)


def _num_bytes(arrays: Sequence[Array]) -> float:
    return sum(array.bytes for array in arrays)


def _parse_groups(operation: Operation, devices: int) -> np.ndarray:
    """Parse the groups, in any of XLA's notations: int[groups, members]; by default all devices."""
    text = operation.attributes
    listed = re.search(r"(?:source_target_pairs|replica_groups)=\{(\{.*?\})\}", text)
    if listed:
        return np.array([_ints(part) for part in re.findall(r"\{([\d,]*)\}", listed.group(1))])
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text)
    if iota:
        return _parse_iota(iota.group(2)).reshape(_ints(iota.group(1)))
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[^)]*\)?)\))? *\{([^}]*)\}", text
    )
    if mesh:
        return _parse_mesh_groups(*mesh.groups())
    return np.arange(devices)[None]


def _parse_iota(text: str) -> np.ndarray:
    """Parse `[4,16]T(1,0)`: a range in that shape, transposed."""
    ((shape, order),) = re.findall(r"^\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    ids = np.arange(math.prod(_ints(shape))).reshape(_ints(shape))
    return ids.transpose(_ints(order)) if order else ids


def _parse_mesh_groups(axes: str, device_ids: str | None, over: str) -> np.ndarray:
    """Parse `mesh['a'=16,'b'=4], device_ids=([4,16]T(1,0)) {'a'}`: groups along the last axes."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    names = re.findall(r"'([^']+)'", over)
    ids = _parse_iota(device_ids) if device_ids else np.arange(math.prod(sizes.values()))
    rest = [name for name in sizes if name not in names]
    places = [list(sizes).index(name) for name in [*rest, *names]]
    members = math.prod(sizes[name] for name in names)
    return ids.reshape(tuple(sizes.values())).transpose(places).reshape(-1, members)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def gib_by_kind(found: Sequence[Collective]) -> dict[str, float]:
    """Sum the GiB that one device sends, by kind of collective."""
    total: dict[str, float] = {}
    for collective in found:
        gib = collective.times * collective.sent / 2**30
        total[collective.kind] = total.get(collective.kind, 0.0) + gib
    return total


def collective_seconds(
    found: Sequence[Collective], coordinates: np.ndarray, chip: Chip
) -> tuple[float, float]:
    """Return the seconds that the step waits for collectives, and those that are overlapped.

    A collective uses the links of every torus axis that its groups span, in both directions where
    the axis closes to a ring. Latency and contention are not modelled.

    Args:
        coordinates: int[devices, axes], the place of each partition in the torus.
    """
    extents = coordinates.max(axis=0) + 1
    waited, hidden = 0.0, 0.0
    for collective in found:
        places = coordinates[collective.groups]
        spanned = (places != places[:, :1]).any(axis=(0, 1))
        links = sum(2 if extent >= chip.ring else 1 for extent in extents[spanned])
        sent = collective.times * collective.sent
        seconds = sent / (links * chip.link) if links else 0.0
        if collective.hidden:
            hidden += seconds
        else:
            waited += seconds
    return waited, hidden
