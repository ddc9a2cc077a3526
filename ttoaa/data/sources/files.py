"""Text in files of every kind, local or at a URL."""

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
    """Files, or folders of files, in order of name; paths, or URLs such as gs://bucket/folder.

    JSON lines (.jsonl; .gz, .zst) and Parquet have a document a line or row, under `field`.
    ArrayRecord files have one a record. A plain file (.txt, .md, .py) is one document, or many
    where a `separator` is given; longer ones are cut near `document_characters`, at an empty line
    if there is one, since a book in one piece could only go to training or to the reserve whole.
    A file at a URL is copied to a temporary local one while it is read.
    """

    paths: Sequence[str]
    field: str = "text"
    records: readers.Records | None = None
    """What a record of an ArrayRecord file is: UTF-8 'text', a 'json' object, a tf 'example'."""
    separator: str | None = None
    document_characters: int | None = 20_000
    undecodable: Literal["error", "replace"] = "error"
    """What to do with bytes that are not UTF-8; U+FFFD replaces them."""

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or not self.paths:
            raise ValueError(f"TextFiles.paths must be a list of paths, not {self.paths!r}")
        if self.records not in (None, *readers.RECORDS):
            raise ValueError(f"TextFiles.records must be one of {readers.RECORDS}")
        if self.separator == "":
            raise ValueError("TextFiles.separator must not be empty: leave it out")
        if self.document_characters is not None and self.document_characters < 100:
            raise ValueError("TextFiles.document_characters must be at least 100")
        if self.undecodable not in ("error", "replace"):
            raise ValueError("TextFiles.undecodable must be 'error' or 'replace'")

    @property
    def description(self) -> str:
        return "text of " + ", ".join(map(str, self.paths))

    def units(self) -> Sequence[str]:
        return [file for path in self.paths for file in _files(str(path))]

    def passed_over(self) -> list[str]:
        """Files in its folders that are of no kind that it reads."""
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
        text = readers.decoded(path.read_bytes(), name, replace)
        parts = [text] if self.separator is None else text.split(self.separator)
        limit = self.document_characters
        pieces = itertools.chain.from_iterable(
            [part] if limit is None else _pieces(part, limit) for part in parts
        )
        yield from enumerate(pieces, 1)


def _files(path: str) -> list[str]:
    """That file, or those of the folder in order of name; hidden ones are not."""
    inside = storage.files_in(path)
    if inside is None:
        if not path.endswith(KINDS):
            raise ValueError(f"input {path} is none of {', '.join(KINDS)}")
        return [path]
    datasets = [name for name in inside if name.split("/")[-1] == INFO]
    if datasets:
        raise ValueError(f"input {path} has a TFDS dataset ({datasets[0]}): read it by TfdsDataset")
    found = [name for name in inside if name.endswith(KINDS) and not _is_hidden(name)]
    if not found:
        raise ValueError(f"input {path} has no {', '.join(KINDS)} file")
    base = path.rstrip("/") if storage.is_url(path) else pathlib.Path(path)
    return [f"{base}/{name}" for name in sorted(found)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _pieces(text: str, limit: int) -> Iterator[str]:
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
