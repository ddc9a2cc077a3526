"""Records as JSON lines, plain or gzipped, and validated access to their fields."""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def text_field(record: Record, name: str, may_be_empty: bool = False) -> str:
    """Return a field that holds text; KeyError if it is missing, ValueError if it is not text."""
    return _check_text(record[name], name, may_be_empty)


def texts_field(record: Record, name: str) -> list[str]:
    """Return a field that holds a list of non-empty texts."""
    values = record[name]
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name!r} must be a list of texts, not {values!r}")
    return [_check_text(value, name) for value in values]


def integer_field(record: Record, name: str) -> int:
    """Return a field that holds an integer or its digits."""
    value = record[name]
    digits = isinstance(value, str) and value.strip().lstrip("-").isdecimal()
    if not digits and not isinstance(value, int):
        raise ValueError(f"{name!r} must be a whole number, not {value!r}")
    return int(value)


def _check_text(value: Any, name: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{name!r} must be a text and not empty, not {value!r}")
    return value


def check_paths(paths: Sequence[str], kind: str) -> None:
    """Raise ValueError unless `paths` is a list of existing files; `kind` is the class to name."""
    if isinstance(paths, str) or not paths:
        raise ValueError(f"{kind}.paths must be a list of paths, not {paths!r}")
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{kind}: there is no file {path}")


def read_records(path: str | pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", record) of each non-empty line; ValueError names a bad line."""
    number = 0
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"{path}:{number} is not a JSON object: {line[:40]!r}")
                    yield f"{path}:{number}", record
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a complete gzip file: {error}") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number} is not a JSON object: {error}") from error
