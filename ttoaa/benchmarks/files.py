"""Records of JSON, a line each, plain or gzipped."""

import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any


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
