"""What XLA does not see into: the Pallas kernels of splash attention, by their multiply-adds."""

import dataclasses

from ttoaa.compilation.hlo import Module, Run

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
