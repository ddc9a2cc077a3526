"""Text files, JSON lines, Parquet and ArrayRecord files, local or at URLs."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Literal

import gin

from ttoaa.data import storage
from ttoaa.data.sources import readers
from ttoaa.data.sources.tfds_dataset import INFO

PLAIN = (".txt", ".md", ".py")
LINES = (".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")
TABLES = (".parquet",)
RECORDS = (".array_record", ".arrayrecord")
KINDS = PLAIN + LINES + TABLES + RECORDS


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Files, or folders of files in order of name; paths, or URLs such as gs://bucket/folder.

    A line of JSON lines (.jsonl; .gz, .zst), a row of Parquet and a record of ArrayRecord is a
    document; `field` names its text. A plain file (.txt, .md, .py) is one document, or several if
    there is a `separator`. Longer documents are cut near `document_characters`, preferably at an
    empty line, because a document belongs to training or to the reserve as a whole. A file at a
    URL is read through a temporary local copy.
    """

    paths: Sequence[str]
    field: str = "text"
    records: readers.Records | None = None
    """Content of an ArrayRecord file's records: UTF-8 'text', 'json' objects or tf 'example's."""
    separator: str | None = None
    document_characters: int | None = 20_000
    undecodable: Literal["error", "replace"] = "error"
    """For bytes that are not UTF-8: an error, or U+FFFD in their place."""

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or not self.paths:
            raise ValueError(f"TextFiles.paths must be a list of paths, not {self.paths!r}")
        if self.records not in (None, *readers.RECORDS):
            raise ValueError(f"TextFiles.records must be one of {readers.RECORDS}")
        if self.separator == "":
            raise ValueError("TextFiles.separator must not be empty: use None")
        if self.document_characters is not None and self.document_characters < 100:
            raise ValueError("TextFiles.document_characters must be at least 100")
        if self.undecodable not in ("error", "replace"):
            raise ValueError("TextFiles.undecodable must be 'error' or 'replace'")

    @property
    def description(self) -> str:
        return "text of " + ", ".join(map(str, self.paths))

    def units(self) -> Sequence[str]:
        return [file for path in self.paths for file in _list_files(str(path))]

    def skipped(self) -> list[str]:
        """List the files in its folders that it does not read, because of their type."""
        inside = [(path, storage.files_in(str(path)) or []) for path in self.paths]
        return [
            f"{path}/{name}"
            for path, names in inside
            for name in sorted(names)
            if not name.endswith(KINDS) and not _is_hidden(name)
        ]

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        with storage.local(unit) as path:
            for number, text in self._texts(path, unit):
                if text.strip():
                    yield f"{unit}:{number}", text

    def _texts(self, path: pathlib.Path, name: str) -> Iterator[tuple[int, str]]:
        replace = self.undecodable == "replace"
        if name.endswith(LINES):
            return readers.lines(path, name, self.field, replace)
        if name.endswith(TABLES):
            return readers.table(path, name, self.field, replace)
        if name.endswith(RECORDS):
            return readers.records(path, name, self.field, replace, self.records)
        return self._plain(path, name, replace)

    def _plain(self, path: pathlib.Path, name: str, replace: bool) -> Iterator[tuple[int, str]]:
        text = readers.decode(path.read_bytes(), name, replace)
        parts = [text] if self.separator is None else text.split(self.separator)
        limit = self.document_characters
        pieces = itertools.chain.from_iterable(
            [part] if limit is None else _pieces(part, limit) for part in parts
        )
        yield from enumerate(pieces, 1)


def _list_files(path: str) -> list[str]:
    """List that file, or a folder's files in order of name, without hidden ones."""
    inside = storage.files_in(path)
    if inside is None:
        if not path.endswith(KINDS):
            raise ValueError(f"input {path} has an unknown type: use one of {', '.join(KINDS)}")
        return [path]
    datasets = [name for name in inside if name.split("/")[-1] == INFO]
    if datasets:
        raise ValueError(f"input {path} has a TFDS dataset ({datasets[0]}): use TfdsDataset")
    found = [name for name in inside if name.endswith(KINDS) and not _is_hidden(name)]
    if not found:
        raise ValueError(f"input {path} has no {', '.join(KINDS)} file")
    base = path.rstrip("/") if storage.is_url(path) else pathlib.Path(path)
    return [f"{base}/{name}" for name in sorted(found)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _pieces(text: str, limit: int) -> Iterator[str]:
    """Cut a text into pieces of limit / 2 to limit characters, at the best mark there is."""
    start = 0
    while len(text) - start > limit:
        for mark in ("\n\n", "\n", " ", ""):
            found = text.rfind(mark, start + limit // 2, start + limit)
            if found >= 0:
                break
        stop = found + len(mark)
        yield text[start:stop]
        start = stop
    yield text[start:]
