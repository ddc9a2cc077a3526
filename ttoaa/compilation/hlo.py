"""Parse the text of a compiled XLA module: operations, their shapes, and how often each runs."""

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
    """One array operand or result; a tuple is several of them."""

    dtype: str
    dims: tuple[int, ...]
    layout: str
    """As XLA prints it; S(n) marks a memory other than HBM."""

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
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    """Its results, tuples flattened."""
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def literal(self) -> str:
        """Return the number of a parameter or the value of a constant."""
        return self.attributes.partition(")")[0]

    @property
    def is_matmul(self) -> bool:
        return self.opcode in ("convolution", "dot")

    def called(self, attribute: str) -> str | None:
        """Return the computation named by an attribute such as calls, body or condition."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found and found.group(1)


Computation = Mapping[str, Operation]
"""Operations by name, in the order of the text."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """An operation that the device launches by itself, not as part of a fusion."""

    operation: Operation
    within: Computation
    times: int
    """How often it is launched in one call of the module: more than once inside loops."""


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed module: its computations by name."""

    computations: Mapping[str, Computation]
    entry: str

    @functools.cached_property
    def launches(self) -> list[Launch]:
        """All operations that one call of the module launches."""
        return list(self._launches(self.entry, 1))

    @functools.cached_property
    def loops(self) -> dict[str, int | None]:
        """Trip count of each while loop by name; None where the text does not give it."""
        return {
            operation.name: self._trip_count(operation)
            for computation in self.computations.values()
            for operation in computation.values()
            if operation.opcode == "while"
        }

    def inside(self, operation: Operation) -> Iterator[tuple[Operation, Computation]]:
        """Yield the operations of a fusion or of a called computation, nested ones included."""
        for attribute in ("calls", "called_computations"):
            name = operation.called(attribute)
            for part in self.computations.get(name or "", {}).values():
                yield part, self.computations[name or ""]
                yield from self.inside(part)

    def _launches(self, name: str, times: int) -> Iterator[Launch]:
        computation = self.computations[name]
        for operation in computation.values():
            yield Launch(operation, computation, times)
            if operation.opcode == "while":
                body, trips = operation.called("body"), self._trip_count(operation) or 1
                yield from self._launches(body or "", times * trips)
            elif operation.opcode == "call":
                yield from self._launches(operation.called("to_apply") or "", times)
            elif operation.opcode == "conditional":
                for branch in _branches(operation):
                    yield from self._launches(branch, times)

    def _trip_count(self, loop: Operation) -> int | None:
        """Read the loop's annotation, or `i < constant` in its condition; XLA counts from 0."""
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
    """Parse the result of `compiled.as_text()`.

    Raises:
        ValueError: the text has no entry computation.
    """
    computations: dict[str, dict[str, Operation]] = {}
    current: dict[str, Operation] | None = None
    entry, pending = "", ""

    def close() -> None:
        if pending and current is not None:
            operation = _parse_operation(pending)
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
            pending += "\n" + line  # attributes can span several lines
    if not entry:
        raise ValueError("the text is not a compiled XLA module: it has no ENTRY")
    return Module(computations, entry)


def _parse_operation(line: str) -> Operation:
    found = _OPERATION.match(line)
    assert found, line[:80]
    root, name, rest = found.groups()
    end = _closing_bracket(rest) + 1 if rest.startswith("(") else rest.index(" ")
    opcode, _, after = rest[end:].lstrip().partition("(")
    close = _closing_bracket("(" + after) - 1
    literal = opcode in ("constant", "parameter")
    operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", after[:close]))
    arrays = tuple(
        Array(dtype, tuple(int(n) for n in dims.split(",") if n), layout or "")
        for dtype, dims, layout in _ARRAY.findall(rest[:end])
    )
    attributes = after if literal else after[close + 1 :]
    return Operation(name, opcode, arrays, operands, attributes, bool(root))


def _closing_bracket(text: str) -> int:
    """Find the bracket that closes the one at the start of the text."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place
    raise ValueError(f"a bracket is not closed in {text[:80]!r}")


def _branches(operation: Operation) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", operation.attributes)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed.group(1))
    named = (operation.called(f"{which}_computation") for which in ("true", "false"))
    return [name for name in named if name]
