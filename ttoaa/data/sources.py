"""Where text comes from: each source yields (name, text) documents in a fixed order."""

import dataclasses
import gzip
import hashlib
import itertools
import json
import pathlib
import platform
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import gin

PLAIN = (".txt", ".md", ".py")
LINES = (".jsonl", ".jsonl.gz")


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
        """Names (for messages) and texts of a unit; the same in the same order at every call."""
        ...


def all_documents(source: Source) -> Iterator[tuple[str, str]]:
    """Those of all units, in order."""
    for unit in source.units():
        yield from source.documents(unit)


def keyed_fraction(key: str, text: str) -> float:
    """A number in [0, 1) that depends on key and text alone; uniform over texts."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=key.encode()).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


@gin.configurable
@dataclasses.dataclass(frozen=True)
class EmbeddedPython:
    """The Python installation it runs on: its language reference, then its library's sources.

    Real text that needs no network. Sources of 200 bytes to 200 kB count, tests last, so that
    `max_characters` takes the best first; the order of what it took is then a fixed shuffle.
    """

    max_characters: int | None = None

    def __post_init__(self) -> None:
        if self.max_characters is not None and self.max_characters < 1:
            raise ValueError("EmbeddedPython.max_characters must be positive")

    @property
    def description(self) -> str:
        return f"reference and library sources of Python {platform.python_version()}"

    def units(self) -> Sequence[str]:
        return ("python",)

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        del unit
        taken: list[tuple[str, str]] = []
        characters = 0
        for name, text in itertools.chain(_topics(), _library()):
            characters += len(text)
            if self.max_characters is not None and characters > self.max_characters:
                break
            taken.append((name, text))
        yield from sorted(taken, key=lambda document: keyed_fraction("order", document[1]))


# Other people's packages, tables of numbers, and the reference's topics once more.
_LEFT_OUT = {"site-packages", "dist-packages", "encodings", "pydoc_data"}


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it apart
        return
    for name in sorted(topics):
        if len(topics[name]) >= 200:
            yield f"reference/{name}", topics[name]


def _library() -> Iterator[tuple[str, str]]:
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    paths = [path for path in paths if not _LEFT_OUT & {*path.parts}]
    for path in sorted(paths, key=lambda path: (_is_test(path), path.as_posix())):
        content = (root / path).read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError:  # the library's tests hold files in other encodings
            continue
        if 200 <= len(content) <= 200_000:
            yield path.as_posix(), text


def _is_test(path: pathlib.Path) -> bool:
    return any("test" in part for part in path.parts[:-1])


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Files, or folders of files, in order of name: .txt, .md, .py, .jsonl and .jsonl.gz.

    A JSONL file has a document a line, under "text". A plain file is one document, or many where
    a `separator` is given; longer ones are cut near `document_characters`, at an empty line if
    there is one, since a book in one piece could only go to training or to the reserve whole.
    """

    paths: Sequence[str]
    separator: str | None = None
    document_characters: int | None = 20_000
    undecodable: Literal["error", "replace"] = "error"
    """What to do with bytes of plain files that are not UTF-8; U+FFFD replaces them."""

    def __post_init__(self) -> None:
        if isinstance(self.paths, str) or not self.paths:
            raise ValueError(f"TextFiles.paths must be a list of paths, not {self.paths!r}")
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
        return [str(path) for path in self._files()]

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        path = pathlib.Path(unit)
        texts = _lines(path) if path.name.endswith(LINES) else self._plain(path)
        for number, text in texts:
            if text.strip():
                yield f"{path}:{number}", text

    def _files(self) -> list[pathlib.Path]:
        files: list[pathlib.Path] = []
        for path in map(pathlib.Path, self.paths):
            if path.is_dir():
                inside = [p for p in path.rglob("*") if p.name.endswith(PLAIN + LINES)]
                inside = [p for p in inside if p.is_file() and not _is_hidden(p, path)]
                files += sorted(inside, key=lambda p: p.as_posix())
                problem = "" if inside else f"has no {', '.join(PLAIN + LINES)} file"
            elif not path.exists():
                problem = "does not exist"
            else:
                files.append(path)
                supported = path.name.endswith(PLAIN + LINES)
                problem = "" if supported else f"is none of {', '.join(PLAIN + LINES)}"
            if problem:
                raise ValueError(f"input {path} {problem}")
        return files

    def _plain(self, path: pathlib.Path) -> Iterator[tuple[int, str]]:
        try:
            errors = "strict" if self.undecodable == "error" else "replace"
            text = path.read_bytes().decode(errors=errors)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 at byte {error.start}: convert it, "
                f"or set TextFiles.undecodable (--undecodable) to 'replace'"
            ) from error
        parts = [text] if self.separator is None else text.split(self.separator)
        limit = self.document_characters
        pieces = itertools.chain.from_iterable(
            [part] if limit is None else _pieces(part, limit) for part in parts
        )
        yield from enumerate(pieces, 1)


def _is_hidden(path: pathlib.Path, root: pathlib.Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    text = json.loads(line)["text"]
                    if not isinstance(text, str):
                        raise TypeError(f"'text' is {type(text).__name__}")
                    yield number, text
        except KeyError as error:
            raise ValueError(f"{path}:{number} has no {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number} is no JSON object with a text: {error}") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error


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
