"""Estimate the time of a compiled module by three models, and the FLOPs of its attention kernels.

- roofline: each operation takes the longer of its multiply-adds at 0.84 of the peak and its bytes
  at 0.85 of the memory bandwidth. XLA's `optimal_seconds` has the same rule (1% higher for v5p),
  but is negative for some chips and counts the body of a loop once.
- cycles: XLA's `estimated_cycles`, which guides its choice of tiles. Close to the peak for matrix
  products, several times too slow for element-wise operations.
- mixed: cycles for matrix products, the smaller of the two for the rest. Optimistic.

No model covers Pallas kernels, which XLA does not analyse: `kernel_flops` counts the multiply-adds
of splash attention.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from ttoaa.accelerators import Chip
from ttoaa.compilation.collectives import collective_kind
from ttoaa.compilation.hlo import Array, Computation, Launch, Module, Operation

# From XLA's cost analysis for v5p, of a single bf16 matrix product and of a single copy.
_PEAK_SHARE, _BANDWIDTH_SHARE = 0.84, 0.85

# Operations that move no data or are counted where they start. Prefetches overlap arithmetic, and
# the operations that use them read from a nearer memory.
_FREE = {"after-all", "bitcast", "call", "conditional", "constant", "custom-call"}
_FREE |= {"get-tuple-element", "opt-barrier", "parameter", "partition-id", "replica-id"}
_FREE |= {"tuple", "while"}
_SLICES = {"dynamic-slice", "gather", "slice"}


@dataclasses.dataclass(frozen=True)
class TimeEstimates:
    """Seconds of one device for one call of a module, by model."""

    roofline: float
    cycles: float
    mixed: float
    products: float
    """The part of `roofline` in operations bound by the matrix units."""
    flops: float
    """FLOPs of matrix products, outside Pallas kernels."""


def estimate_times(module: Module, chip: Chip) -> TimeEstimates:
    """Estimate the time of all operations but collectives and Pallas kernels."""
    roofline = cycles = mixed = products = flops = 0.0
    for launch in module.launches:
        if not _takes_time(module, launch.operation):
            continue
        arithmetic = _matmul_flops(module, launch)
        compute = arithmetic / (_PEAK_SHARE * chip.peak_flops)
        memory = _hbm_bytes(module, launch) / (_BANDWIDTH_SHARE * chip.hbm_bandwidth)
        by_cycles = _estimated_cycles(launch.operation) / chip.clock
        roofline += launch.times * max(compute, memory)
        cycles += launch.times * by_cycles
        mixed += launch.times * (by_cycles if arithmetic else min(by_cycles, memory))
        products += launch.times * (compute if compute > memory else 0.0)
        flops += launch.times * arithmetic
    return TimeEstimates(roofline, cycles, mixed, products, flops)


def _takes_time(module: Module, operation: Operation) -> bool:
    if operation.opcode in _FREE or operation.opcode.endswith(("-start", "-done", "-update")):
        return False
    if collective_kind(operation):
        return False
    parts = [part for part, _ in module.inside(operation)]
    return not any(map(collective_kind, parts)) or any(part.is_matmul for part in parts)


def _estimated_cycles(operation: Operation) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', operation.attributes)
    return int(found.group(1)) if found else 0


def _hbm_bytes(module: Module, launch: Launch) -> float:
    """Count the bytes of main memory that one launch reads and writes."""
    operation = launch.operation
    operands = [launch.within[name].arrays for name in operation.operands]
    body = module.computations.get(operation.called("calls") or "")
    if body is None:
        if operation.opcode in _SLICES:
            return 2 * _in_hbm(operation.arrays)
        if operation.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(operands[1])
        return sum(map(_in_hbm, operands)) + _in_hbm(operation.arrays)
    names = {int(p.literal): p.name for p in body.values() if p.opcode == "parameter"}
    read = sum(_bytes_read(body, names[i], arrays) for i, arrays in enumerate(operands))
    return read + _bytes_written(body, operation)


def _bytes_read(body: Computation, parameter: str, arrays: Sequence[Array]) -> float:
    """Count the bytes read of one operand of a fusion: all, or the slices that it uses."""
    users = [op for op in body.values() if parameter in op.operands]
    if any(op.opcode == "dynamic-update-slice" and op.operands[0] == parameter for op in users):
        return 0.0  # updated in place
    whole = _in_hbm(arrays)
    if users and all(op.opcode in _SLICES and op.operands[0] == parameter for op in users):
        return min(whole, sum(array.bytes for op in users for array in op.arrays))
    return whole


def _bytes_written(body: Computation, operation: Operation) -> float:
    root, whole = next(op for op in body.values() if op.root), _in_hbm(operation.arrays)
    if root.opcode == "dynamic-update-slice":
        return min(whole, sum(array.bytes for array in body[root.operands[1]].arrays))
    return whole


def _in_hbm(arrays: Sequence[Array]) -> float:
    return sum(array.hbm_bytes for array in arrays)


def _matmul_flops(module: Module, launch: Launch) -> float:
    """Count the FLOPs of matrix products in an operation, two per multiply-add."""
    parts = [(launch.operation, launch.within), *module.inside(launch.operation)]
    return sum(_flops(op, within) for op, within in parts if op.is_matmul)


def _flops(operation: Operation, within: Computation) -> float:
    left, right = (within[name].arrays[0] for name in operation.operands[:2])
    out = operation.arrays[0]
    if operation.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", operation.attributes)
        axes = contracted.group(1).split(",") if contracted and contracted.group(1) else []
        return 2.0 * out.elements * math.prod(left.dims[int(axis)] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", operation.attributes)
    assert labels, operation.attributes
    inputs, kernel, result = labels.groups()
    features = right.dims[kernel.index("i")]
    flops = 2.0 * out.dims[result.index("b")] * out.dims[result.index("f")] * features
    for number, window in enumerate(_windows(operation, sum(c.isdecimal() for c in kernel))):
        sizes = (left.dims[inputs.index(str(number))], out.dims[result.index(str(number))])
        flops *= _multiply_pairs(*sizes, **window)
    return flops


def _windows(operation: Operation, spatial: int) -> list[dict[str, int]]:
    """Parse `size=2x8 stride=1x7 pad=0_0x7_7 …`; a value left out is 1, or no padding."""
    text = re.search(r"window=\{([^}]*)\}", operation.attributes)
    given = dict(part.split("=") for part in text.group(1).split()) if text else {}
    windows = []
    for axis in range(spatial):
        values = {name: value.split("x")[axis] for name, value in given.items()}
        windows.append(
            {
                "size": int(values.get("size", 1)),
                "stride": int(values.get("stride", 1)),
                "low": int(values.get("pad", "0_0").split("_")[0]),
                "left_dilate": int(values.get("lhs_dilate", 1)),
                "right_dilate": int(values.get("rhs_dilate", 1)),
            }
        )
    return windows


def _multiply_pairs(
    inputs: int, outputs: int, size: int, stride: int, low: int, left_dilate: int, right_dilate: int
) -> int:
    """Count pairs of an output and a kernel position that use an input, not padding or a gap."""
    places = (o * stride + k * right_dilate - low for o in range(outputs) for k in range(size))
    return sum(0 <= p <= (inputs - 1) * left_dilate and not p % left_dilate for p in places)


# Substrings of the names of splash kernels. The backward pass is one kernel with five matrix
# products (scores, d weights, dv, dk, dq), or two kernels that both repeat the first two.
_FORWARD, _KEYS, _QUERIES = "_fwd", "_dkv", "_dq"


@dataclasses.dataclass(frozen=True)
class KernelFlops:
    """FLOPs of the Pallas kernels in one call of a module on one device."""

    flops: float
    """Of splash attention: causal, so half of each square."""
    unknown: tuple[str, ...]
    """Names of other kernels, which are not counted."""


def kernel_flops(module: Module) -> KernelFlops:
    """Count the FLOPs of splash attention and name all other Pallas kernels."""
    flops, unknown = 0.0, []
    calls = [x for x in module.launches if '"tpu_custom_call"' in x.operation.attributes]
    two_backward_kernels = any(_QUERIES in launch.operation.name for launch in calls)
    products = {_FORWARD: 2, _QUERIES: 3, _KEYS: 4 if two_backward_kernels else 5}
    for launch in calls:
        name = launch.operation.name
        count = next((n for part, n in products.items() if part in name), None)
        if count is None or "splash" not in name:
            unknown.append(name)
        else:
            flops += launch.times * count * _causal_matmul_flops(launch)
    return KernelFlops(flops, tuple(unknown))


def _causal_matmul_flops(launch: Launch) -> float:
    """Count the FLOPs of [L, C] times [C, L], half of it masked, over all rows and heads."""
    operands = [launch.within[name].arrays[0] for name in launch.operation.operands]
    queries = next(array for array in operands if array.dtype == "bf16" or len(array.dims) == 4)
    *rows_heads, length, width = queries.dims
    return float(math.prod(rows_heads)) * length * length * width
