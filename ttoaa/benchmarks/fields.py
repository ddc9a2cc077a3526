"""The fields of a record, checked: Python would write None into a text without a word."""

from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]


def text(record: Record, name: str, may_be_empty: bool = False) -> str:
    """A field that holds text; KeyError without it, ValueError where it holds none."""
    return _checked(record[name], name, may_be_empty)


def texts(record: Record, name: str) -> list[str]:
    """A field that holds a list of texts, none of them empty."""
    values = record[name]
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name!r} must be a list of texts, not {values!r}")
    return [_checked(value, name) for value in values]


def number(record: Record, name: str) -> int:
    """A field that holds a whole number, or its digits."""
    value = record[name]
    digits = isinstance(value, str) and value.strip().lstrip("-").isdecimal()
    if not digits and not isinstance(value, int):
        raise ValueError(f"{name!r} must be a whole number, not {value!r}")
    return int(value)


def _checked(value: Any, name: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{name!r} must be a text and not empty, not {value!r}")
    return value
