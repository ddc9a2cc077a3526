"""Reads the text of a compiled XLA module: operations, their shapes, and how often each runs."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$", re.DOTALL)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_BITS = re.compile(r"[a-z]+(\d+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array; a tuple is several of them."""

    dtype: str
    dims: tuple[int, ...]
    layout: str
    """As XLA prints it: S(n) names a memory other than HBM."""

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        bits = _BITS.match(self.dtype)
        return self.elements * (int(bits.group(1)) / 8 if bits else float(self.dtype == "pred"))

    @property
    def hbm_bytes(self) -> float:
        return 0.0 if "S(" in self.layout else self.bytes


@dataclasses.dataclass(frozen=True)
class Operation:
    name: str
    opcode: str
    arrays: tuple[Array, ...]
    """What it gives, tuples flattened."""
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def literal(self) -> str:
        """The number of a parameter, the value of a constant."""
        return self.attributes.partition(")")[0]

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute such as calls, body or condition names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found and found.group(1)


Computation = Mapping[str, Operation]
"""Operations by name, in the order of the text."""


@dataclasses.dataclass(frozen=True)
class Run:
    """An operation that the device starts by itself, not as a part of a fusion."""

    operation: Operation
    within: Computation
    times: int
    """How often: more than once inside loops."""


@dataclasses.dataclass(frozen=True)
class Module:
    computations: Mapping[str, Computation]
    entry: str

    @functools.cached_property
    def runs(self) -> list[Run]:
        """All that is started in one call of the module."""
        return list(self._runs(self.entry, 1))

    @functools.cached_property
    def loops(self) -> dict[str, int | None]:
        """Times that the body of each while runs; None where the text does not tell."""
        return {
            operation.name: self._trips(operation)
            for computation in self.computations.values()
            for operation in computation.values()
            if operation.opcode == "while"
        }

    def inside(self, operation: Operation) -> Iterator[tuple[Operation, Computation]]:
        """All operations of a fusion, fusions in it included; of others, the operations called."""
        for attribute in ("calls", "called_computations"):
            name = operation.called(attribute)
            for part in self.computations.get(name or "", {}).values():
                yield part, self.computations[name or ""]
                yield from self.inside(part)

    def _runs(self, name: str, times: int) -> Iterator[Run]:
        computation = self.computations[name]
        for operation in computation.values():
            yield Run(operation, computation, times)
            if operation.opcode == "while":
                body, trips = operation.called("body"), self._trips(operation) or 1
                yield from self._runs(body or "", times * trips)
            elif operation.opcode == "call":
                yield from self._runs(operation.called("to_apply") or "", times)
            elif operation.opcode == "conditional":
                for branch in _branches(operation):
                    yield from self._runs(branch, times)

    def _trips(self, loop: Operation) -> int | None:
        """From the loop's own note or from `i < constant` in its condition; XLA counts from 0."""
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if noted:
            return int(noted.group(1))
        condition = self.computations.get(loop.called("condition") or "", {})
        for operation in condition.values():
            if operation.root and "direction=LT" in operation.attributes:
                limit = condition.get(operation.operands[-1])
                known = limit and limit.opcode == "constant" and limit.literal.isdecimal()
                return int(limit.literal) if limit and known else None
        return None


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`; ValueError where there is none."""
    computations: dict[str, dict[str, Operation]] = {}
    current: dict[str, Operation] | None = None
    entry, pending = "", ""

    def close() -> None:
        if pending and current is not None:
            operation = _operation(pending)
            current[operation.name] = operation

    for line in text.splitlines():
        header = _HEADER.match(line)
        if current is None and header:
            current = computations[header.group(2)] = {}
            entry = header.group(2) if header.group(1) else entry
        elif line == "}":
            close()
            current, pending = None, ""
        elif current is not None and _OPERATION.match(line):
            close()
            pending = line
        elif current is not None:
            pending += "\n" + line  # attributes may go on over several lines
    if not entry:
        raise ValueError("this is no text of a compiled XLA module: it has no ENTRY")
    return Module(computations, entry)


def _operation(line: str) -> Operation:
    found = _OPERATION.match(line)
    assert found, line[:80]
    root, name, rest = found.groups()
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode, _, after = rest[end:].lstrip().partition("(")
    close = _closing("(" + after, 0) - 1
    literal = opcode in ("constant", "parameter")
    operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", after[:close]))
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), layout or "")
        for dtype, dims, layout in _ARRAY.findall(rest[:end])
    )
    attributes = after if literal else after[close + 1 :]
    return Operation(name, opcode, arrays, operands, attributes, bool(root))


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"a bracket does not close in {text[:80]!r}")


def _branches(operation: Operation) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", operation.attributes)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed.group(1))
    named = (operation.called(f"{which}_computation") for which in ("true", "false"))
    return [name for name in named if name]
