"""Identities: what decided the bits of a run, a plan or a corpus, as canonical JSON.

An identity is a JSON object with a schema version and one entry per part ("model", "corpus", …).
Dataclasses are written with their type and all of their fields, defaults filled in, except fields
with `repr=False`, which decide no bits. It also lists which fields were at their default, so that a
field added to a config class later does not orphan existing runs: a field that one side does not
know counts as equal if the other side has its default.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np

SCHEMA = 1
_SCHEMA, _DEFAULTED = "schema", "defaulted"
RETRAIN = "use another --workdir, or move that folder away and train again"
"""What to do about a run of another identity."""
_LONGEST = 80  # characters of a value in a message

T = TypeVar("T")


class Difference(NamedTuple):
    path: str
    """Dotted, such as 'model.layers'."""
    made: Any
    now: Any


def identity(**parts: Any) -> dict[str, Any]:
    """Describe each part as JSON, with the schema version and the fields at their default.

    Raises ValueError for a part that is not made of dataclasses, containers and plain values.
    """
    defaulted: list[str] = []
    described = {name: _describe(part, name, defaulted) for name, part in parts.items()}
    return {_SCHEMA: SCHEMA, **described, _DEFAULTED: sorted(defaulted)}


def describe(value: Any) -> Any:
    """Return the value as JSON: dataclasses become objects with a 'type' and every field."""
    return _describe(value, "", [])


def canonical(value: Any) -> str:
    """Return one text for equal JSON values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Return the sha256 of a value's description, without the fields that are at their default.

    A field added with a default later does not change it.
    """
    defaulted: list[str] = []
    described = _describe(value, "", defaulted)
    return hashlib.sha256(canonical(_without(described, "", set(defaulted))).encode()).hexdigest()


def restore(kind: type[T], described: Mapping[str, Any]) -> T:
    """Make a dataclass of plain fields from its description; unknown fields are ignored.

    Raises ValueError for the description of a version of ttoaa that wrote no JSON.
    """
    if not isinstance(described, Mapping):
        raise ValueError(
            f"a {kind.__name__} was written by another version of ttoaa: train or import it again"
        )
    names = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    return kind(**{name: described[name] for name in names if name in described})


def differences(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """List what differs among the parts of `now`; parts that only `made` has do not count."""
    known = set(made.get(_DEFAULTED, ())), set(now.get(_DEFAULTED, ()))
    found: list[Difference] = []
    for name in now:
        new_default = name not in made and name in known[1]
        if name not in (_SCHEMA, _DEFAULTED) and not new_default:
            found += _compare(name, made.get(name), now[name], *known)
    return found


def with_defaults(flat: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Add to a config's dotted fields which of them are at their default, for `check`."""
    prefix = "config."
    defaulted = identity(config=config)[_DEFAULTED]
    return {**flat, _DEFAULTED: [path.removeprefix(prefix) for path in defaulted]}


def check(what: object, made: Mapping[str, Any], now: Mapping[str, Any], advice: str) -> None:
    """Raise ValueError, in one line with both sides, where `what` was made by another identity.

    Args:
        what: the folder or file that was made, for the message.
        made: the identity it was made with.
        now: the identity that this command would make it with.
        advice: what to do, such as "use another --workdir".
    """
    if _SCHEMA in now and made.get(_SCHEMA) != now[_SCHEMA]:
        raise ValueError(
            f"{what} was made by another version of ttoaa (identity schema {made.get(_SCHEMA)}, "
            f"this version reads {now[_SCHEMA]}): {advice}"
        )
    for path, there, here in differences(made, now):
        raise ValueError(
            f"{what} was made with {path} {_show(there)}, now it would be {_show(here)}: {advice}"
        )


def _compare(
    path: str, made: Any, now: Any, made_defaults: set[str], now_defaults: set[str]
) -> Iterator[Difference]:
    if not (isinstance(made, Mapping) and isinstance(now, Mapping)):
        if isinstance(made, list) and isinstance(now, list) and len(made) == len(now):
            for number, pair in enumerate(zip(made, now, strict=True)):
                yield from _compare(f"{path}.{number}", *pair, made_defaults, now_defaults)
        elif made != now:
            yield Difference(path, made, now)
        return
    if made.get("type") != now.get("type"):
        yield Difference(path, made.get("type"), now.get("type"))
        return
    for name in {**now, **made}:
        inner = f"{path}.{name}"
        if name in made and name in now:
            yield from _compare(inner, made[name], now[name], made_defaults, now_defaults)
        elif inner not in (now_defaults if name in now else made_defaults):
            yield Difference(inner, made.get(name, "absent"), now.get(name, "absent"))


def _describe(value: Any, path: str, defaulted: list[str]) -> Any:
    inner = functools.partial("{}.{}".format, path) if path else str
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if field.init and field.repr]
        parts = {
            f.name: _describe(getattr(value, f.name), inner(f.name), defaulted) for f in fields
        }
        for field in fields:
            if _is_default(field, getattr(value, field.name)):
                defaulted.append(inner(field.name))
        return {"type": type(value).__name__, **parts}
    if isinstance(value, Mapping):
        return {str(k): _describe(value[k], inner(str(k)), defaulted) for k in value}
    if isinstance(value, list | tuple | range):
        return [_describe(each, inner(str(n)), defaulted) for n, each in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"type": value.dtype.str, "shape": list(value.shape), "sha256": content}
    if isinstance(value, functools.partial):
        bound = {"args": value.args, **value.keywords}
        return {"type": _describe(value.func, path, []), **_describe(bound, path, defaulted)}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise ValueError(
        f"{path or 'a config'} must be made of dataclasses, containers and plain values, not "
        f"{value!r:.100}"
    )


def _is_default(field: "dataclasses.Field[Any]", value: Any) -> bool:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        return False
    return canonical(describe(default)) == canonical(describe(value))


def _without(described: Any, path: str, left_out: set[str]) -> Any:
    if isinstance(described, list):
        return [_without(e, f"{path}.{n}".lstrip("."), left_out) for n, e in enumerate(described)]
    if not isinstance(described, Mapping):
        return described
    paths = {name: f"{path}.{name}".lstrip(".") for name in described}
    return {
        name: _without(described[name], inner, left_out)
        for name, inner in paths.items()
        if inner not in left_out
    }


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
