"""Readers for each type of file: they yield documents, numbered from 1.

`path` is the local file, `name` its name in messages. Each reader raises ValueError, with the file
and what to do, for a damaged file or a missing field. With `replace`, U+FFFD replaces bytes that
are not UTF-8; otherwise they are an error.
"""

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ttoaa.data.sources.base import needs_package

Records = Literal["text", "json", "example"]
RECORDS = ("text", "json", "example")

_BATCH = 1024  # rows or records read at once


def decode(content: bytes, name: str, replace: bool) -> str:
    try:
        return content.decode(errors="replace" if replace else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 at byte {error.start}: convert it, "
            f"or set the source's undecodable (--undecodable) to 'replace'"
        ) from error


def lines(path: pathlib.Path, name: str, field: str, replace: bool) -> Iterator[tuple[int, str]]:
    """Read a JSON object per line; empty lines are skipped."""
    with _open_lines(path, name) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _text_of_json(line, f"{name}:{number}", field, replace)


def table(path: pathlib.Path, name: str, field: str, replace: bool) -> Iterator[tuple[int, str]]:
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
                yield number, text(value, f"{name}:{number}", field, replace)


def _as_bytes(column: pa.Array) -> pa.Array:
    """Return strings as bytes, since Arrow's own decoding errors do not name the row."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    return column.cast(kinds[column.type]) if column.type in kinds else column


def records(
    path: pathlib.Path, name: str, field: str, replace: bool, kind: Records | None
) -> Iterator[tuple[int, str]]:
    """Read the records of an ArrayRecord file; `field` is for those of JSON objects or examples."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if kind is None:
        raise ValueError(
            f"{name} has records of unknown content: set TextFiles.records (--records) "
            f"to one of {', '.join(RECORDS)}"
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
    content = decode(line, name, replace).removeprefix("\ufeff")
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object but a {type(value).__name__}")
    if field not in value:
        raise ValueError(f"{name} has no {field!r}: {_suggest_field(list(value))}")
    return text(value[field], name, field, replace)


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
    return text(values[0] if len(values) == 1 else values, name, field, replace)


def text(value: Any, name: str, field: str, replace: bool) -> str:
    """Return a field's value as text; ValueError where it is not one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value, name, replace)
    raise ValueError(f"{name} has no text in {field!r} but a value of type {type(value).__name__}")


def _suggest_field(names: list[str]) -> str:
    known = ", ".join(map(repr, sorted(names)[:8])) or "none"
    return f"set TextFiles.field (--field) to one of {known}"
