"""Text that every machine has: the Python installation."""

import itertools
import pathlib
import platform
import sysconfig
from collections.abc import Iterator, Sequence

import gin

from ttoaa.config_fields import PositiveInt, config_class
from ttoaa.data.sources.base import keyed_fraction


@gin.configurable
@config_class
class EmbeddedPython:
    """The Python installation it runs on: its language reference, then its library's sources.

    Needs no network. Library files of 200 bytes to 200 kB are used, tests last, so that
    `max_characters` keeps the best; the documents kept are then shuffled by a hash.
    """

    max_characters: PositiveInt | None = None

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


# Installed packages, tables of numbers, and the reference's topics a second time.
_EXCLUDED = {"site-packages", "dist-packages", "encodings", "pydoc_data"}


def _topics() -> Iterator[tuple[str, str]]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it separately
        return
    for name in sorted(topics):
        if len(topics[name]) >= 200:
            yield f"reference/{name}", topics[name]


def _library() -> Iterator[tuple[str, str]]:
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    paths = [path for path in paths if not _EXCLUDED & {*path.parts}]
    for path in sorted(paths, key=lambda path: (_is_test(path), path.as_posix())):
        content = (root / path).read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError:  # some of the library's tests are in other encodings
            continue
        if 200 <= len(content) <= 200_000:
            yield path.as_posix(), text


def _is_test(path: pathlib.Path) -> bool:
    return any("test" in part for part in path.parts[:-1])
