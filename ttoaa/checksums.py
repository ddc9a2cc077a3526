"""Checksums of the files of a study, which are verified before anything is computed from them.

A JSON object holds the sha256 of its other keys. A file that grows line by line has a `FileDigest`,
which stays valid for its first bytes.
"""

import hashlib
import io
import json
import pathlib
import threading
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from ttoaa.json_io import read_json
from ttoaa.workdir import file_sha256, write_bytes, write_json

KEY = "sha256"


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the sha256 of its other keys."""
    others = {name: value[name] for name in value if name != KEY}
    text = json.dumps(others, sort_keys=True)
    return {**others, KEY: hashlib.sha256(text.encode()).hexdigest()}


def has_checksum(value: Mapping[str, Any]) -> bool:
    """Return whether a JSON object holds the checksum of its other keys."""
    return value.get(KEY) == with_checksum(value)[KEY]


def write_record(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum."""
    write_json(path, with_checksum(value))


def read_record(path: pathlib.Path, structure: Any, fix: str) -> Any:
    """Read a JSON object that `write_record` wrote; one without a checksum is accepted.

    Files of earlier versions have no checksum. Raises ValueError, naming the file, if it is
    damaged, and OSError if it is missing.
    """
    value = read_json(path, structure, fix)
    if KEY in value and not has_checksum(value):
        raise ValueError(f"{path} is damaged: its checksum does not match its values: {fix}")
    return value


class FileDigest(TypedDict):
    """The size and sha256 of a file, or of its first bytes."""

    bytes: int
    sha256: str


class RunningDigest:
    """The digest of a file that is written by appending."""

    def __init__(self, content: bytes = b"") -> None:
        self._bytes, self._sha256 = len(content), hashlib.sha256(content)

    def update(self, content: bytes) -> None:
        self._bytes += len(content)
        self._sha256.update(content)

    @property
    def value(self) -> FileDigest:
        return {"bytes": self._bytes, "sha256": self._sha256.hexdigest()}


def digest_file(path: pathlib.Path) -> FileDigest:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def check_file(path: pathlib.Path, expected: FileDigest, fix: str, whole: bool = True) -> bytes:
    """Return the bytes that a digest describes: the whole file, or its first bytes if not `whole`.

    Raises ValueError, naming the file, if it is missing or differs from the digest.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing: {fix}")
    with open(path, "rb") as file:
        content = file.read(-1 if whole else expected["bytes"])
    if len(content) < expected["bytes"]:
        raise ValueError(
            f"{path} is damaged: it has {len(content):,} bytes instead of "
            f"{expected['bytes']:,}: {fix}"
        )
    if RunningDigest(content).value != expected:
        raise ValueError(f"{path} is damaged: its content has changed: {fix}")
    return content


NPY_HEADERS = threading.Lock()
"""Held while NumPy parses the header of a .npy file: Python's parser is not safe in threads (a
SystemError about "AST constructor recursion depth", seen with 3.11.7)."""


def write_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Write an array in NumPy's format, and the sha256 of that after it."""
    file = io.BytesIO()
    np.save(file, array)
    write_bytes(path, file.getvalue() + hashlib.sha256(file.getvalue()).digest())


def read_array(path: pathlib.Path) -> np.ndarray | None:
    """Return what `write_array` wrote; None for a missing file, or one without its checksum."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    size = hashlib.sha256().digest_size
    content, digest = raw[:-size], raw[-size:]
    intact = hashlib.sha256(content).digest() == digest
    with NPY_HEADERS:
        return np.load(io.BytesIO(content)) if intact else None
