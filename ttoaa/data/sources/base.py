"""What a source of documents is, and what its documents are told apart by."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from ttoaa.data.tokenizer import TokenIds


class Source(Protocol):
    """A frozen dataclass; its fields are what makes two corpora the same."""

    @property
    def description(self) -> str:
        """One line for people."""
        ...

    def units(self) -> Sequence[str]:
        """Names of what can be read apart, by several processes, such as files; in order."""
        ...

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        """Names (for messages) and texts of a unit; the same in the same order at every call.

        A `TokenIds` may stand in place of a text. Raises ValueError or OSError, naming the file
        and what to do, for what cannot be read.
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
    """Those of all units, in order."""
    for unit in source.units():
        yield from source.documents(unit)


def encode_document(name: str, text: str | TokenIds) -> bytes:
    """The document's bytes; ValueError, naming it, for half a surrogate pair (JSON may)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error}") from error


def keyed_fraction(key: str, text: str | TokenIds) -> float:
    """A number in [0, 1) that depends on key and text alone; uniform over texts."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key.encode()).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53
