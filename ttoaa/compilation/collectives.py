"""What the devices of a compiled module tell each other: bytes by kind, and the time that takes."""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from ttoaa.compilation.hlo import Array, Computation, Module, Operation
from ttoaa.compilation.pods import Chip

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
    kind: str
    sent: float
    """Bytes that one device sends, by the algorithm that sends least (rings)."""
    groups: np.ndarray
    """int[groups, devices in each]: partitions that take part together."""
    times: int
    hidden: bool
    """Runs beside arithmetic, as far as the compiler could arrange it."""


def kind_of(operation: Operation) -> str | None:
    name = operation.opcode.removesuffix("-start")
    return name if name in KINDS else None


def collectives(module: Module, devices: int) -> list[Collective]:
    """All of one call of the module, those wrapped in fusions and asynchronous ones included."""
    found = []
    for run in module.runs:
        outer = run.operation
        parts = [(outer, run.within), *module.inside(outer)]
        product = any(part.opcode in ("convolution", "dot") for part, _ in parts)
        for part, within in parts:
            if not kind_of(part):
                continue
            kind = str(kind_of(part))
            hidden = product or "-start" in outer.opcode
            if part is not outer and kind == "all-reduce" and _is_sliced(within):
                kind = "reduce-scatter"  # XLA:TPU keeps it as a fusion of these two
            groups = _groups(part, devices)
            sent = _sent(kind, part, within, groups.shape[1])
            found.append(Collective(kind, sent, groups, run.times, hidden))
    return found


def _is_sliced(body: Computation) -> bool:
    return any(op.root and op.opcode == "dynamic-slice" for op in body.values())


def _sent(kind: str, operation: Operation, within: Computation, members: int) -> float:
    given = sum(_bytes(within[name].arrays) for name in operation.operands)
    others = (members - 1) / members
    return {
        "all-gather": given * (members - 1),
        "all-reduce": 2 * given * others,
        "reduce-scatter": given * others,
        "all-to-all": given * others,
        "ragged-all-to-all": given * others,
    }.get(kind, given)


def _bytes(arrays: Sequence[Array]) -> float:
    return sum(array.bytes for array in arrays)


def _groups(operation: Operation, devices: int) -> np.ndarray:
    """int[groups, members] of any of XLA's ways to write them; all devices where it says none."""
    text = operation.attributes
    pairs = re.search(r"source_target_pairs=\{(\{.*?\})\}", text)
    if pairs:
        return _listed(pairs.group(1))
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", text)
    if listed:
        return _listed(listed.group(1))
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text)
    if iota:
        return _iota(iota.group(2)).reshape(_numbers(iota.group(1)))
    mesh = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[^)]*\)?)\))? *\{([^}]*)\}", text
    )
    if mesh:
        return _mesh(*mesh.groups())
    return np.arange(devices)[None]


def _listed(text: str) -> np.ndarray:
    return np.array([_numbers(part) for part in re.findall(r"\{([\d,]*)\}", text)])


def _iota(text: str) -> np.ndarray:
    """`[4,16]T(1,0)`: a range in that shape, transposed."""
    ((shape, order),) = re.findall(r"^\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _mesh(axes: str, device_ids: str | None, over: str) -> np.ndarray:
    """`mesh['a'=16,'b'=4], device_ids=([4,16]T(1,0)) {'a'}`: along the axes named last."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    names = re.findall(r"'([^']+)'", over)
    ids = _iota(device_ids) if device_ids else np.arange(math.prod(sizes.values()))
    rest = [name for name in sizes if name not in names]
    places = [list(sizes).index(name) for name in [*rest, *names]]
    members = math.prod(sizes[name] for name in names)
    return ids.reshape(tuple(sizes.values())).transpose(places).reshape(-1, members)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def gib_by_kind(found: Sequence[Collective]) -> dict[str, float]:
    """GiB that one device sends."""
    total: dict[str, float] = {}
    for each in found:
        total[each.kind] = total.get(each.kind, 0.0) + each.times * each.sent / 2**30
    return total


def seconds(
    found: Sequence[Collective], coordinates: np.ndarray, chip: Chip
) -> tuple[float, float]:
    """(of those that the step waits for, of those that are hidden).

    `coordinates` int[devices, axes]: where in the torus each partition lies. A collective has the
    links of all torus axes that its groups extend along, in both directions where the axis closes
    to a ring, and neither latency nor contention.
    """
    extents = coordinates.max(axis=0) + 1
    waited, hidden = 0.0, 0.0
    for each in found:
        places = coordinates[each.groups]
        spanned = (places != places[:, :1]).any(axis=(0, 1))
        links = sum(2 if extent >= chip.ring else 1 for extent in extents[spanned])
        taken = each.times * each.sent / (links * chip.link) if links else 0.0
        waited, hidden = waited + taken * (not each.hidden), hidden + taken * each.hidden
    return waited, hidden
