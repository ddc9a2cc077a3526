"""Text files, JSON lines, Parquet and ArrayRecord files, local or at URLs.

In the readers at the end, `path` is the local file and `name` its name in messages. Documents are
numbered from 1. Each reader raises ValueError, with the file and what to do, for a damaged file or
a missing field.
"""

import contextlib
import gzip
import io
import itertools
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, BinaryIO, Literal, cast

import gin
import pyarrow as pa
import pyarrow.parquet as pq

from ttoaa.config_fields import AtLeast, Name, Paths, config_class
from ttoaa.data import storage
from ttoaa.data.sources.base import decode, needs_package, text_of
from ttoaa.data.sources.tfds_dataset import INFO
from ttoaa.json_io import parse_json

PLAIN = (".txt", ".md", ".py")
LINES = (".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")
TABLES = (".parquet",)
RECORDS = (".array_record", ".arrayrecord")
KINDS = PLAIN + LINES + TABLES + RECORDS
Records = Literal["text", "json", "example"]
RECORD_KINDS = ("text", "json", "example")
_BATCH = 1024  # rows or records read at once


@gin.configurable
@config_class
class TextFiles:
    """Files, or folders of files in order of name; paths, or URLs such as gs://bucket/folder.

    A line of JSON lines (.jsonl; .gz, .zst), a row of Parquet and a record of ArrayRecord is a
    document; `field` names its text. A plain file (.txt, .md, .py) is one document, or several if
    there is a `separator`. Longer documents are cut near `document_characters`, preferably at an
    empty line, because a document belongs to training or to the reserve as a whole. A file at a
    URL is read through a temporary local copy.
    """

    paths: Paths
    field: Name = "text"
    records: Records | None = None
    """Content of an ArrayRecord file's records: UTF-8 'text', 'json' objects or tf 'example's."""
    separator: Name | None = None
    document_characters: Annotated[int, AtLeast(100)] | None = 20_000
    undecodable: Literal["error", "replace"] = "error"
    """For bytes that are not UTF-8: an error, or U+FFFD in their place."""

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
            return _lines(path, name, self.field, replace)
        if name.endswith(TABLES):
            return _table(path, name, self.field, replace)
        if name.endswith(RECORDS):
            return _records(path, name, self.field, replace, self.records)
        return self._plain(path, name, replace)

    def _plain(self, path: pathlib.Path, name: str, replace: bool) -> Iterator[tuple[int, str]]:
        text = decode(path.read_bytes(), name, replace)
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


def _lines(path: pathlib.Path, name: str, field: str, replace: bool) -> Iterator[tuple[int, str]]:
    """Read a JSON object per line; empty lines are skipped."""
    with _open_lines(path, name) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _text_of_json(line, f"{name}:{number}", field, replace)


def _table(path: pathlib.Path, name: str, field: str, replace: bool) -> Iterator[tuple[int, str]]:
    """Read one column of a Parquet file, a batch at a time."""
    number = 0
    with _one_line_errors(name, "Parquet file"), pa.OSFile(str(path)) as native:  # see parquet_io
        file = pq.ParquetFile(native)
        names = file.schema_arrow.names
        if field not in names:
            raise ValueError(f"{name} has no column {field!r}: {_suggest_field(names)}")
        for batch in file.iter_batches(_BATCH, columns=[field], use_threads=False):
            for value in _as_bytes(batch.column(0)).to_pylist():
                number += 1
                yield number, text_of(value, f"{name}:{number}", field, replace)


def _as_bytes(column: pa.Array) -> pa.Array:
    """Return strings as bytes, since Arrow's own decoding errors do not name the row."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    return column.cast(kinds[column.type]) if column.type in kinds else column


def _records(
    path: pathlib.Path, name: str, field: str, replace: bool, kind: Records | None
) -> Iterator[tuple[int, str]]:
    """Read the records of an ArrayRecord file; `field` is for those of JSON objects or examples."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if kind is None:
        raise ValueError(
            f"{name} has records of unknown content: set TextFiles.records (--records) "
            f"to one of {', '.join(RECORD_KINDS)}"
        )
    with _one_line_errors(name, "ArrayRecord file"):
        source = ArrayRecordDataSource(str(path))
        for start in range(0, len(source), _BATCH):
            found = source.__getitems__(range(start, min(start + _BATCH, len(source))))
            for number, record in enumerate(found, start + 1):
                yield number, _text_of_record(record, f"{name}:{number}", field, replace, kind)


@contextlib.contextmanager
def _one_line_errors(name: str, kind: str) -> Iterator[None]:
    """Turn what libraries raise for a damaged file into a ValueError of one line."""
    try:
        yield
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, RuntimeError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} is not a complete {kind}: {reason}") from error


@contextlib.contextmanager
def _open_lines(path: pathlib.Path, name: str) -> Iterator[BinaryIO]:
    if name.endswith(".gz"):
        with _one_line_errors(name, "gzip file"), gzip.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    elif name.endswith(".zst"):
        # Arrow reads several frames in one file, and notices a file that is cut short.
        with (
            _one_line_errors(name, "zstd file"),
            pa.input_stream(str(path), compression="zstd") as native,
        ):
            yield cast(BinaryIO, io.BufferedReader(native, 1 << 20))
    else:
        with open(path, "rb") as file:
            yield file


def _text_of_json(line: bytes, name: str, field: str, replace: bool) -> str:
    value = parse_json(decode(line, name, replace), name, dict[str, Any])
    if field not in value:
        raise ValueError(f"{name} has no {field!r}: {_suggest_field(list(value))}")
    return text_of(value[field], name, field, replace)


def _text_of_record(record: bytes, name: str, field: str, replace: bool, kind: Records) -> str:
    if kind == "text":
        return decode(record, name, replace)
    if kind == "json":
        return _text_of_json(record, name, field, replace)
    with needs_package(name):
        from tensorflow_datasets.proto import tf_example_pb2  # imports no TensorFlow
    try:
        features = tf_example_pb2.Example.FromString(record).features.feature
    except Exception as error:  # of a type that depends on protobuf's version
        raise ValueError(f"{name} is not a tf.train.Example: {error}") from error
    if field not in features:
        raise ValueError(f"{name} has no {field!r}: {_suggest_field(list(features))}")
    values = list(features[field].bytes_list.value)
    return text_of(values[0] if len(values) == 1 else values, name, field, replace)


def _suggest_field(names: list[str]) -> str:
    known = ", ".join(map(repr, sorted(names)[:8])) or "none"
    return f"set TextFiles.field (--field) to one of {known}"
