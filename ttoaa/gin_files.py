"""Read gin files: their includes, the place of each binding, the sources of resolved configs.

An `include` is resolved next to the including file, then among the configs that ttoaa ships, such
as 'quickstart.gin', then in an importable package, as 'lab_a/spelling.gin'. The current folder is
not searched.
"""

import dataclasses
import hashlib
import importlib.util  # gin, too, reaches for it without importing it
import io
import os
import pathlib
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gin
from gin import config_parser

_PACKAGE = pathlib.Path(__file__).parent
_SHIPPED = [_PACKAGE / "configs", _PACKAGE.parent / "configs"]
"""Folders of the configs that ttoaa ships: in an installed package, in a checkout."""
_HEADER = "# Resolved by ttoaa; change it with --gin_bindings. The lines below have sha256 "
_SOURCE = "# source "


class Binding(NamedTuple):
    scopes: tuple[str, ...]
    name: str
    """'Name.parameter', or the name of a macro."""
    file: pathlib.Path | None
    """None for the command line."""
    line: int
    included: bool

    @property
    def full_name(self) -> str:
        return "/".join((*self.scopes, self.name))

    @property
    def where(self) -> str:
        """'file:line', empty for the command line."""
        return f"{self.file.name}:{self.line}" if self.file else ""


class Source(NamedTuple):
    """A file that a config was resolved from."""

    path: str
    """Relative to the folder of the first file; 'configs/…' for those that ttoaa ships."""
    sha256: str


@dataclasses.dataclass
class GinFiles:
    """Config files with everything they include, in the order in which gin applies them."""

    sources: list[Source] = dataclasses.field(default_factory=list)
    bindings: list[Binding] = dataclasses.field(default_factory=list)
    references: set[str] = dataclasses.field(default_factory=set)
    """'scope/Name' of every '@scope/Name', and the name of every macro."""
    _pieces: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """(file, text) between includes, padded with blank lines to keep gin's line numbers correct."""

    def parse(self) -> None:
        """Replace all gin bindings by those of the files."""
        gin.clear_config()
        for name, text in self._pieces:
            gin.parse_config(_named(name, text))

    def may_be_replaced(self, binding: Binding) -> bool:
        """Return whether the files refer to the binding's scopes, or to the macro: it is no typo.

        gin itself refuses unknown names of classes and parameters.
        """
        scopes = {scope for name in self.references for scope in name.split("/")[:-1]}
        if "." not in binding.name:
            return binding.full_name in self.references
        return scopes >= {*binding.scopes}

    def where(self, kind: str, parameter: str) -> str:
        """Return ' (file:line)' of the last binding of a class's parameter, '' if unknown."""
        ends = [b for b in self.bindings if f".{b.name}".endswith(f".{kind}.{parameter}")]
        return f" ({ends[-1].where})" if ends and ends[-1].where else ""


def read_gin_files(files: Sequence[str | os.PathLike[str]], bindings: Sequence[str]) -> GinFiles:
    """Read config files, everything they include, and single bindings after them.

    Raises ValueError, in one line, for a file that is missing or is not UTF-8, or for a circular
    include; SyntaxError for a statement that cannot be parsed.
    """
    found = GinFiles()
    top: pathlib.Path | None = None
    for name in files:
        path = locate(name)
        if path is None:
            raise ValueError(f"gin file {name} does not exist")
        top = top or path.parent
        _read(path, found, (), top)
    _read_text("\n".join(bindings), None, found, (), pathlib.Path())
    return found


def locate(name: str | os.PathLike[str]) -> pathlib.Path | None:
    """Return the file at a path, or else the config of that name in ttoaa or a package, or None.

    The folder 'configs/' may be left out: 'quickstart.gin' is found from anywhere.
    """
    path = pathlib.Path(name)
    if path.is_file():
        return path.absolute()
    inside = pathlib.Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    return None if path.is_absolute() else _installed(inside)


def _installed(path: pathlib.Path) -> pathlib.Path | None:
    """Return the file that ttoaa ships, or that the package of its first folder has, or None."""
    folders = [*_SHIPPED]
    package, *inside = path.parts
    if inside and package.isidentifier():
        spec = importlib.util.find_spec(package)
        if spec and spec.origin:  # a folder without __init__.py has no origin
            folders.append(pathlib.Path(spec.origin).parent.parent)
    return next((found for f in folders if (found := f / path).is_file()), None)


def with_header(resolved: str, sources: Sequence[Source]) -> str:
    """Return a resolved config with its sources and a checksum, which `read_gin_files` verifies."""
    lines = [f"{_SOURCE}{source.path} sha256 {source.sha256}\n" for source in sources]
    body = "".join(lines) + resolved
    return f"{_HEADER}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def sources_of(config: pathlib.Path) -> list[Source]:
    """Return the sources of a resolved config; raise ValueError if it is damaged or was edited."""
    found = _sources(_decode(config, config.read_bytes()))
    if found is None:
        raise ValueError(
            f"{config} is damaged or was edited (its checksum differs): name the study's config "
            "with --gin_file and the same --workdir to write it again"
        )
    return found


def _sources(text: str) -> list[Source] | None:
    """Return the sources in the header of a resolved config; None without a valid header."""
    first, _, body = text.partition("\n")
    if first != _HEADER + hashlib.sha256(body.encode()).hexdigest():
        return None
    lines = [line.removeprefix(_SOURCE) for line in body.splitlines() if line.startswith(_SOURCE)]
    return [Source(*line.rsplit(" sha256 ", 1)) for line in lines]


def _read(
    path: pathlib.Path, found: GinFiles, stack: tuple[pathlib.Path, ...], top: pathlib.Path
) -> None:
    resolved = path.resolve()
    if resolved in stack:
        circle = [each.name for each in (*stack[stack.index(resolved) :], resolved)]
        raise ValueError(f"circular include: {' includes '.join(circle)}")
    content = path.read_bytes()
    text = _decode(path, content)
    # An edited copy of a resolved config counts as a source file.
    itself = Source(_relative(resolved, top.resolve()), hashlib.sha256(content).hexdigest())
    inherited = _sources(text)
    found.sources += [itself] if inherited is None else inherited
    _read_text(text, path, found, (*stack, resolved), top)


def _read_text(
    text: str,
    path: pathlib.Path | None,
    found: GinFiles,
    stack: tuple[pathlib.Path, ...],
    top: pathlib.Path,
) -> None:
    """Record the statements of one file, or of the command line, and read what it includes."""
    name, lines, begun = str(path or "--gin_bindings"), io.StringIO(text).readlines(), 0
    references = _References(found.references)
    for statement in _statements(name, text, references):
        if isinstance(statement, config_parser.BindingStatement):
            scopes = tuple(filter(None, (statement.scope or "").split("/")))
            bound = ".".join(filter(None, (statement.selector, statement.arg_name)))
            line = statement.location.line_num
            found.bindings.append(Binding(scopes, bound, path, line, len(stack) > 1))
        elif isinstance(statement, config_parser.IncludeStatement):
            line = statement.location.line_num
            found._pieces.append((name, "\n" * begun + "".join(lines[begun : line - 1])))
            _read(_included(statement.filename, path, line), found, stack, top)
            begun = line
    found._pieces.append((name, "\n" * begun + "".join(lines[begun:])))


def _statements(name: str, text: str, references: "_References") -> Iterator[Any]:
    """Yield gin's statements; raise SyntaxError, with the line, for text that has no tokens.

    From Python 3.12 on, the tokenizer itself raises where it left the error to gin before.
    """
    try:
        yield from config_parser.ConfigParser(_named(name, text), references)
    except tokenize.TokenError as error:
        reason, (line, column) = error.args
        raise SyntaxError(reason, (name, line, column, None)) from error


class _References(config_parser.ParserDelegate):
    """Collects the names that a file's values refer to."""

    def __init__(self, found: set[str]) -> None:
        self._found = found

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> str:
        self._found.add(scoped_configurable_name)
        return scoped_configurable_name

    def macro(self, scoped_name: str) -> str:
        self._found.add(scoped_name)
        return scoped_name


def _included(name: str, path: pathlib.Path | None, line: int) -> pathlib.Path:
    if path is None:
        raise ValueError(f"--gin_bindings cannot include {name!r}: name the file with --gin_file")
    near = path.parent / name
    found = near if near.is_file() else _installed(pathlib.Path(name))
    if found is None:
        raise ValueError(
            f"{path.name}:{line} includes {name!r}, which is neither in {path.parent} nor a config "
            "of ttoaa or of an importable package"
        )
    return found


def _relative(path: pathlib.Path, top: pathlib.Path) -> str:
    for folder in _SHIPPED:
        if path.is_relative_to(folder):
            return f"configs/{path.relative_to(folder).as_posix()}"
    return os.path.relpath(path, top)


def _decode(path: pathlib.Path, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}") from error


def _named(name: str, text: str) -> io.StringIO:
    lines = io.StringIO(text)
    lines.name = name  # shown in gin's errors
    return lines
