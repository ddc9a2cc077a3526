"""The protocol of a source of documents, what sources share, and the hash that splits documents."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ttoaa.data.tokenizer import TokenIds


class Source(Protocol):
    """A frozen dataclass of plain fields, which are part of the corpus' identity."""

    @property
    def description(self) -> str:
        """Describe the source in one line."""
        ...

    def units(self) -> Sequence[str]:
        """List the names, in order, of what processes can read separately, such as files."""
        ...

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        """Yield (name, text) of a unit's documents, the same in the same order at every call.

        Names are for messages. A `TokenIds` may replace a text. Raises ValueError or OSError, with
        the file and what to do, for what cannot be read.
        """
        ...


@contextlib.contextmanager
def needs_package(user: str) -> Iterator[None]:
    """Turn a failed import into one line that names its user and what to install.

    An installation without TensorFlow has neither seqio nor tensorflow-datasets.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0].replace("_", "-")
        raise ValueError(
            f"{user} needs {package}, which is not installed: pip install {package}"
        ) from error


def all_documents(source: Source) -> Iterator[tuple[str, str]]:
    """Yield the documents of all units, in order."""
    for unit in source.units():
        yield from source.documents(unit)


def encode_document(name: str, text: str | TokenIds) -> bytes:
    """Return a document's bytes; ValueError, naming it, for a lone surrogate (valid in JSON)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error}") from error


def keyed_fraction(key: str, text: str | TokenIds) -> float:
    """Hash key and text to a number in [0, 1), uniform over texts."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key.encode()).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def decode(content: bytes, name: str, replace: bool) -> str:
    """Decode UTF-8 and drop a byte order mark at the start.

    Raises ValueError, naming the text, for invalid bytes; with `replace`, U+FFFD replaces them.
    """
    try:
        return content.decode(errors="replace" if replace else "strict").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8 at byte {error.start}: convert it, "
            f"or set the source's undecodable (--undecodable) to 'replace'"
        ) from error


def text_of(value: Any, name: str, field: str, replace: bool) -> str:
    """Return a field's value without a byte order mark; raise ValueError if it is not text."""
    if isinstance(value, str):
        return value.removeprefix("\ufeff")
    if isinstance(value, bytes):
        return decode(value, name, replace)
    raise ValueError(f"{name} has no text in {field!r} but a value of type {type(value).__name__}")
