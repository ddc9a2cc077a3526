"""Config classes: frozen dataclasses that check the type and the range of every field.

    @gin.configurable
    @config_class
    class AdamW:
        clip: Annotated[float | None, Above(0)] = 1.0

Types come from the annotations, and ranges are declared next to them. Both are checked before the
class's own `__post_init__`, which only needs to check rules about several fields. A range inside a
container, as in `Sequence[PositiveInt]`, applies to each element. Floats must be finite, and
integers must fit in 64 bits.
"""

import collections.abc
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeVar, dataclass_transform

import numpy as np

T = TypeVar("T")


class Rule(Protocol):
    """A condition on the value of a field, as metadata of `Annotated`; None is not passed to it."""

    def accepts(self, value: Any) -> bool: ...

    def __str__(self) -> str:
        """Describe the condition, as in 'of at least 1'."""
        ...


class AtLeast(NamedTuple):
    low: float

    def accepts(self, value: Any) -> bool:
        return bool(value >= self.low)

    def __str__(self) -> str:
        return f"of at least {_number(self.low)}"


class Above(NamedTuple):
    low: float

    def accepts(self, value: Any) -> bool:
        return bool(value > self.low)

    def __str__(self) -> str:
        return f"above {_number(self.low)}"


class AtMost(NamedTuple):
    high: float

    def accepts(self, value: Any) -> bool:
        return bool(value <= self.high)

    def __str__(self) -> str:
        return f"of at most {_number(self.high)}"


class Below(NamedTuple):
    high: float

    def accepts(self, value: Any) -> bool:
        return bool(value < self.high)

    def __str__(self) -> str:
        return f"below {_number(self.high)}"


class MultipleOf(NamedTuple):
    factor: int

    def accepts(self, value: Any) -> bool:
        return bool(value % self.factor == 0)

    def __str__(self) -> str:
        return f"that is a multiple of {self.factor}"


class OneOf(NamedTuple):
    names: Collection[Any]

    def accepts(self, value: Any) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.names))}"


class NotEmpty(NamedTuple):
    def accepts(self, value: Any) -> bool:
        return len(value) > 0

    def __str__(self) -> str:
        return "that is not empty"


class Distinct(NamedTuple):
    def accepts(self, value: Any) -> bool:
        return all(one not in value[:n] for n, one in enumerate(value))

    def __str__(self) -> str:
        return "without duplicates"


class Increasing(NamedTuple):
    def accepts(self, value: Any) -> bool:
        return all(a < b for a, b in itertools.pairwise(value))

    def __str__(self) -> str:
        return "in increasing order"


Count = Annotated[int, AtLeast(0)]
PositiveInt = Annotated[int, AtLeast(1)]
Size = Annotated[int, AtLeast(1), AtMost(2**31 - 1)]
"""Size of an axis or a vocabulary: indices are int32."""
NonNegative = Annotated[float, AtLeast(0)]
Positive = Annotated[float, Above(0)]
Share = Annotated[float, AtLeast(0), AtMost(1)]
PositiveShare = Annotated[float, Above(0), AtMost(1)]
Name = Annotated[str, NotEmpty()]
Names = Annotated[Sequence[Name], NotEmpty(), Distinct()]
Paths = Annotated[Sequence[Name], NotEmpty()]


class FieldError(ValueError):
    """A field of a config class has an invalid value."""

    def __init__(self, kind: str, field: str, problem: str) -> None:
        super().__init__(f"{kind}.{field} {problem}")
        self.kind, self.field, self.problem = kind, field, problem

    def __reduce__(self) -> tuple[Any, ...]:
        return FieldError, (self.kind, self.field, self.problem)  # to reach another process


CLASSES: dict[str, type] = {}
"""Every config class by name."""


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def config_class(cls: type[T]) -> type[T]:
    """Make a frozen dataclass that checks its fields before its own `__post_init__`."""
    own = cls.__dict__.get("__post_init__")

    def post_init(self: Any) -> None:
        check_fields(self, made)
        if own is not None:
            own(self)
        elif (inherited := getattr(super(made, self), "__post_init__", None)) is not None:
            inherited()

    cls.__post_init__ = post_init  # type: ignore[attr-defined]
    made = dataclasses.dataclass(frozen=True)(cls)
    CLASSES[made.__name__] = made
    return made


def check_fields(value: Any, base: type | None = None) -> None:
    """Raise FieldError for the first field of a dataclass with a wrong type or out of range.

    The declarations of `base` apply too, even if the class declares the field again.
    """
    kind: Any = type(value)
    for declaring in dict.fromkeys((kind, base or kind)):
        for name, hint in _hints(declaring).items():
            for path, wanted, found in _problems(getattr(value, name), hint, ""):
                problem = f"must be {wanted}, not {_show(found)}"
                raise FieldError(kind.__name__, name + path, problem)


def check_nested(value: Any) -> None:
    """Check a dataclass and all dataclasses in it, including those made without `config_class`."""
    check_fields(value)
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        for part in given if isinstance(given, list | tuple) else [given]:
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                check_nested(part)


def similar(name: str, known: Collection[str]) -> str:
    """Return ': did you mean X?' for the most similar known name, '' if none is similar."""
    found = difflib.get_close_matches(name, known, 1, 0.7)
    return f": did you mean {found[0]}?" if found else ""


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


Problem = tuple[str, str, Any]
"""(path below the field, what the value there must be, the value)."""


def _problems(given: Any, hint: Any, path: str) -> Iterator[Problem]:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield from _annotated(given, hint, path)
    elif origin in (typing.Union, types.UnionType):
        # The alternative that comes closest explains: one that fits in type but not in range.
        found = [list(_problems(given, part, path)) for part in parts]
        if all(found):
            fitting = [p for p, part in zip(found, parts, strict=True) if _has_kind(given, part)]
            deepest = (fitting or [[(path, _describe(hint), given)]])[0][0]
            yield deepest if deepest[0] != path else (path, _describe(hint), given)
    elif not _has_kind(given, hint):
        yield path, _describe(hint), given
    elif isinstance(given, float | np.floating) and not math.isfinite(given):
        yield path, "a finite number", given
    elif isinstance(given, int) and not -(2**63) <= given < 2**63:
        yield path, "an integer of at most 64 bits", given
    elif origin in _MAPPINGS:
        for key, value in given.items():
            yield from _problems(key, parts[0], f"{path}[{key!r}]")
            yield from _problems(value, parts[1], f"{path}[{key!r}]")
    elif origin is tuple and not (len(parts) == 2 and parts[1] is Ellipsis):
        if len(given) != len(parts):
            yield path, _describe(hint), given
        for n, (element, part) in enumerate(zip(given, parts, strict=False)):
            yield from _problems(element, part, f"{path}[{n}]")
    elif origin is tuple or origin in _SEQUENCES:
        for n, element in enumerate(given):
            yield from _problems(element, parts[0], f"{path}[{n}]")


def _annotated(given: Any, hint: Any, path: str) -> Iterator[Problem]:
    inner, *rules = typing.get_args(hint)
    found = list(_problems(given, inner, path))
    if any(where == path for where, _, _ in found):
        yield path, _describe(hint), given
    elif found:
        yield from found
    elif given is not None and not all(rule.accepts(given) for rule in rules if _is_rule(rule)):
        yield path, _describe(hint), given


_MISSING = object()
_SEQUENCES = (list, collections.abc.Sequence, collections.abc.Collection, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)
_PLAIN: Mapping[Any, str] = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "True or False",
    type(None): "None",
}
_PLURAL = {"an integer": "integers", "a number": "numbers", "text": "texts"}


def _has_kind(given: Any, hint: Any) -> bool:
    """Return whether the value has the outermost type; type arguments and rules are ignored."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _has_kind(given, typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return any(_has_kind(given, part) for part in typing.get_args(hint))
    if origin is Literal:
        # Equality alone would take True for 1.
        return any(type(given) is type(part) and given == part for part in typing.get_args(hint))
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if hint is None or hint is type(None):
        return given is None
    kind = origin or hint
    if not isinstance(kind, type):
        return True
    if kind in (int, float):
        numbers = (int, np.integer) if kind is int else (int, float, np.integer, np.floating)
        return isinstance(given, numbers) and not isinstance(given, bool)
    if getattr(kind, "_is_protocol", False):
        # Looked up without calling properties, which may read files.
        return not isinstance(given, type) and all(
            inspect.getattr_static(given, name, _MISSING) is not _MISSING for name in _members(kind)
        )
    if kind is collections.abc.Callable:
        return callable(given)
    if kind in _SEQUENCES or kind is tuple:
        # gin passes tuples and lists for any sequence; callers may also pass vectors.
        if isinstance(given, np.ndarray):
            return given.ndim == 1
        return isinstance(given, collections.abc.Sequence) and not isinstance(given, str | bytes)
    return isinstance(given, kind)


@functools.cache
def _members(protocol: type) -> frozenset[str]:
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    names = {
        name for base in bases for name in (*vars(base), *getattr(base, "__annotations__", ()))
    }
    return frozenset(name for name in names if not name.startswith("_"))


def _describe(hint: Any, plural: bool = False) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        text = _describe(parts[0], plural)
        if plural:  # an element that breaks a rule is reported with the rule
            return text
        rules = [str(rule) for rule in parts[1:] if _is_rule(rule)]
        if text in ("text", "an integer") and rules and rules[0].startswith("one of"):
            return rules[0]
        optional = text.removesuffix(" or None")
        end = " or None" if optional != text else ""
        return f"{optional} {_join(rules)}{end}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(part, plural) for part in parts)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if hint in _PLAIN or hint is None:
        text = _PLAIN[type(None) if hint is None else hint]
        return _PLURAL.get(text, text) if plural else text
    if origin is tuple and not (len(parts) == 2 and parts[1] is Ellipsis):
        return f"({', '.join(map(_describe, parts))})"
    if origin in (tuple, *_SEQUENCES):
        return f"{'lists' if plural else 'a list'} of {_describe(parts[0], plural=True)}"
    if origin in _MAPPINGS:
        return f"a dict of {_describe(parts[0], True)} to {_describe(parts[1], True)}"
    name = getattr(hint, "__name__", str(hint))
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        article = "an" if name[0] in "AEIOU" else "a"
        if plural:
            return f"{name} objects"
        return f"{article} {name}, as @Name() with the parentheses"
    return name


def _is_rule(rule: Any) -> bool:
    return hasattr(rule, "accepts")


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def _join(rules: list[str]) -> str:
    return " and ".join(rules).replace(" and of at most", " and at most")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
