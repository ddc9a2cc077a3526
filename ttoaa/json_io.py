"""Read JSON files, and check their structure before anything is computed from them.

A structure is a type: `dict[str, str]`, `list[int]`, `str | None`, `Literal[…]`, a TypedDict
(additional keys are allowed), or `Any`. A `float` may be written as an integer and must be finite;
a `str` must be valid Unicode. Duplicate keys in an object are refused.
"""

import json
import pathlib
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any


def read_json(path: pathlib.Path, structure: Any = Any, fix: str = "") -> Any:
    """Read a JSON file; `fix` is the advice at the end of error messages.

    Raises ValueError, naming the file, if it is damaged or has another structure, and OSError if it
    is missing.
    """
    return parse_json(path.read_bytes(), path, structure, fix)


def parse_json(content: bytes | str, name: object, structure: Any = Any, fix: str = "") -> Any:
    """Parse JSON; `name` is the file, or file and line, in error messages.

    Bytes are UTF-8, with or without a byte order mark. Raises a one-line ValueError.
    """
    problem: str | None
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
        problem = mismatch(value, structure)
    except UnicodeDecodeError as error:
        problem = f"is damaged: not UTF-8 at byte {error.start}"
    except RecursionError:
        problem = "is damaged: nested too deeply"
    except ValueError as error:
        problem = f"is damaged: {error}"
    if problem is not None:
        raise ValueError(f"{name} {problem}{fix and f': {fix}'}")
    return value


def iterate_json_lines(
    path: pathlib.Path, structure: Any = dict[str, Any], fix: str = ""
) -> Iterator[tuple[bytes, Any]]:
    """Yield each whole line with its value, but not a last one that a kill cut short."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield line, parse_json(line, f"{path}:{number}", structure, fix)


def read_json_lines(
    path: pathlib.Path, structure: Any = dict[str, Any], fix: str = ""
) -> list[Any]:
    return [value for _, value in iterate_json_lines(path, structure, fix)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; raise ValueError for a duplicate key, which `json` would overwrite."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in made if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return made


def mismatch(value: Any, structure: Any, where: str = "") -> str | None:
    """Describe how a value differs from a structure, as in "has no 'step'"; None if it fits."""
    if structure is Any:
        return None
    if typing.is_typeddict(structure):
        if not isinstance(value, dict):
            return _must(where, structure, value)
        missing = sorted(structure.__required_keys__ - value.keys())
        if missing:
            return f"has no {missing[0]!r}{where and f' in {where}'}"
        kinds = typing.get_type_hints(structure)
        inside = ((value[name], kinds[name], name) for name in value if name in kinds)
    else:
        kind, parts = typing.get_origin(structure) or structure, typing.get_args(structure)
        if kind in (typing.Union, types.UnionType):
            fits = [part for part in parts if mismatch(value, part) is None]
            return None if fits else _must(where, structure, value)
        if not _is_a(value, kind, parts):
            return _must(where, structure, value)
        if kind is dict and parts:
            inside = ((each, parts[1], name) for name, each in value.items())
        elif kind is list and parts:
            inside = ((each, parts[0], str(number)) for number, each in enumerate(value))
        else:
            return None
    found = (mismatch(v, kind, f"{where}.{name}" if where else name) for v, kind, name in inside)
    return next((problem for problem in found if problem is not None), None)


def _is_a(value: Any, kind: Any, choices: tuple[Any, ...]) -> bool:
    """Return whether a value has a type; its parts are not checked."""
    if kind is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in choices)
    if kind is None or kind is types.NoneType:
        return value is None
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if kind is str:
        return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)
    return type(value) is kind


_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "a text",
    list: "a list",
    dict: "an object",
    None: "null",
    types.NoneType: "null",
}


def _must(where: str, structure: Any, value: Any) -> str:
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return f"must hold {_describe(structure)}{where and f' in {where}'}, not {shown}"


def _describe(structure: Any) -> str:
    kind, parts = typing.get_origin(structure) or structure, typing.get_args(structure)
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if kind is typing.Literal:
        return " or ".join(json.dumps(choice) for choice in parts)
    return "an object" if typing.is_typeddict(kind) else _NAMES[kind]
