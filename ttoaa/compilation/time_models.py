"""Seconds of a compiled module by three clocks; none of them sees into Pallas kernels.

- roofline: each operation takes the longer of its multiply-adds at 0.84 of the peak and its bytes
  at 0.85 of the memory's bandwidth. XLA's own `optimal_seconds` has the same rule (and comes out 1%
  higher for v5p), but is negative for some chips and counts the body of a loop once.
- cycles: XLA's `estimated_cycles`, which its search for tiles goes by. Close to the peak on
  products of matrices, several times too slow on element-wise operations.
- mixed: cycles where there is a product of matrices, the lesser of the two elsewhere. Optimistic.

What XLA does not see into: the Pallas kernels of splash attention, by their multiply-adds.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from ttoaa.compilation.collectives import kind_of
from ttoaa.compilation.hlo import Array, Computation, Module, Operation, Run
from ttoaa.compilation.pods import Chip

# As XLA's cost analysis for v5p has them: a bare product of bf16 matrices, a bare copy.
_OF_PEAK, _OF_BANDWIDTH = 0.84, 0.85

# What moves nothing, or counts where it was started; prefetches run beside the arithmetic, and
# who uses them then reads from a nearer memory.
_FREE = {"after-all", "bitcast", "call", "conditional", "constant", "custom-call"}
_FREE |= {"get-tuple-element", "opt-barrier", "parameter", "partition-id", "replica-id"}
_FREE |= {"tuple", "while"}
_SLICES = {"dynamic-slice", "gather", "slice"}


@dataclasses.dataclass(frozen=True)
class Clocks:
    """Seconds of one device."""

    roofline: float
    cycles: float
    mixed: float
    products: float
    """The part of `roofline` in operations that the matrix units bound."""
    flops: float
    """Of the products of matrices, outside Pallas kernels."""


def clocks(module: Module, chip: Chip) -> Clocks:
    roofline = cycles = mixed = products = flops = 0.0
    for run in module.runs:
        if not _counts(module, run.operation):
            continue
        arithmetic = product_flops(module, run)
        compute = arithmetic / (_OF_PEAK * chip.peak_flops)
        memory = hbm_bytes(module, run) / (_OF_BANDWIDTH * chip.hbm_bandwidth)
        estimated = _cycles(run.operation) / chip.clock
        roofline += run.times * max(compute, memory)
        cycles += run.times * estimated
        mixed += run.times * (estimated if arithmetic else min(estimated, memory))
        products += run.times * (compute if compute > memory else 0.0)
        flops += run.times * arithmetic
    return Clocks(roofline, cycles, mixed, products, flops)


def _counts(module: Module, operation: Operation) -> bool:
    if operation.opcode in _FREE or operation.opcode.endswith(("-start", "-done", "-update")):
        return False
    if kind_of(operation):
        return False
    parts = [part for part, _ in module.inside(operation)]
    return not any(map(kind_of, parts)) or any(map(_is_product, parts))


def _cycles(operation: Operation) -> int:
    found = re.search(r'"estimated_cycles":"(\d+)"', operation.attributes)
    return int(found.group(1)) if found else 0


def hbm_bytes(module: Module, run: Run) -> float:
    """Read from and written to the device's main memory by one run of an operation."""
    operation = run.operation
    given = [_arrays(run.within, name) for name in operation.operands]
    body = module.computations.get(operation.called("calls") or "")
    if body is None:
        if operation.opcode in _SLICES:
            return 2 * _hbm(operation.arrays)
        if operation.opcode == "dynamic-update-slice":
            return 2 * _hbm(given[1])
        return sum(map(_hbm, given)) + _hbm(operation.arrays)
    names = {int(p.literal): p.name for p in body.values() if p.opcode == "parameter"}
    read = sum(_read(body, names[i], arrays) for i, arrays in enumerate(given))
    return read + _written(body, operation)


def _read(body: Computation, parameter: str, arrays: Sequence[Array]) -> float:
    """Of one operand of a fusion: all of it, or the slices that the fusion takes."""
    users = [op for op in body.values() if parameter in op.operands]
    if any(op.opcode == "dynamic-update-slice" and op.operands[0] == parameter for op in users):
        return 0.0  # updated in place
    whole = _hbm(arrays)
    if users and all(op.opcode in _SLICES and op.operands[0] == parameter for op in users):
        return min(whole, sum(array.bytes for op in users for array in op.arrays))
    return whole


def _written(body: Computation, operation: Operation) -> float:
    root = next(op for op in body.values() if op.root)
    if root.opcode == "dynamic-update-slice":
        return min(_hbm(operation.arrays), sum(a.bytes for a in _arrays(body, root.operands[1])))
    return _hbm(operation.arrays)


def _hbm(arrays: Sequence[Array]) -> float:
    return sum(array.hbm_bytes for array in arrays)


def _arrays(computation: Computation, name: str) -> tuple[Array, ...]:
    return computation[name].arrays


def product_flops(module: Module, run: Run) -> float:
    """Two a multiply-add of the products of matrices in an operation."""
    parts = [(run.operation, run.within), *module.inside(run.operation)]
    return sum(_product(op, within) for op, within in parts if _is_product(op))


def _is_product(operation: Operation) -> bool:
    return operation.opcode in ("convolution", "dot")


def _product(operation: Operation, within: Computation) -> float:
    left, right = (_arrays(within, name)[0] for name in operation.operands[:2])
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
        flops *= _pairs(*sizes, **window)
    return flops


def _windows(operation: Operation, spatial: int) -> list[dict[str, int]]:
    """XLA writes size=2x8 stride=1x7 pad=0_0x7_7 …; what is left out is 1, or no padding."""
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


def _pairs(
    inputs: int, outputs: int, size: int, stride: int, low: int, left_dilate: int, right_dilate: int
) -> int:
    """Pairs of an output and a kernel position that meet an input and neither padding nor a gap."""
    places = (o * stride + k * right_dilate - low for o in range(outputs) for k in range(size))
    return sum(0 <= p <= (inputs - 1) * left_dilate and not p % left_dilate for p in places)


# Products of matrices in a kernel, by a part of its name. The backward pass is one kernel of five
# (scores, d weights, dv, dk, dq), or two that both begin with the first two.
_FORWARD, _KEYS, _QUERIES = "_fwd", "_dkv", "_dq"


@dataclasses.dataclass(frozen=True)
class Kernels:
    flops: float
    """Of attention, in one call of the module on one device, causal: half of each square."""
    unknown: tuple[str, ...]
    """Kernels that are not splash attention and are not counted."""


def kernels(module: Module) -> Kernels:
    flops, unknown = 0.0, []
    calls = [r for r in module.runs if '"tpu_custom_call"' in r.operation.attributes]
    split = any(_QUERIES in run.operation.name for run in calls)
    products = {_FORWARD: 2, _QUERIES: 3, _KEYS: 4 if split else 5}
    for run in calls:
        count = next((n for part, n in products.items() if part in run.operation.name), None)
        if count is None or "splash" not in run.operation.name:
            unknown.append(run.operation.name)
        else:
            flops += run.times * count * _causal_product(run)
    return Kernels(flops, tuple(unknown))


def _causal_product(run: Run) -> float:
    """Of one product of [L, C] and [C, L], half of it masked, over all rows and heads."""
    operands = [run.within[name].arrays[0] for name in run.operation.operands]
    queries = next(array for array in operands if array.dtype == "bf16" or len(array.dims) == 4)
    *rows_heads, length, width = queries.dims
    number = 1
    for size in rows_heads:
        number *= size
    return float(number) * length * length * width
