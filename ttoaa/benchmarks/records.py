"""The fields of a record, checked: Python would write None into a text without a word.

Records of JSON, a line each, plain or gzipped.
"""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
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


def check_paths(paths: Sequence[str], kind: str) -> None:
    """Raises ValueError where `paths` is no list of files that exist; `kind` is who asks."""
    if isinstance(paths, str) or not paths:
        raise ValueError(f"{kind}.paths must be a list of paths, not {paths!r}")
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{kind}: there is no file {path}")


def records(path: str | pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", record) of each line that is not empty; ValueError names a bad one."""
    number = 0
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"{path}:{number} is no JSON object: {line[:40]!r}")
                    yield f"{path}:{number}", record
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number} is no JSON object: {error}") from error
