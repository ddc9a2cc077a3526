"""Run a command: parse its flags, print its help, and turn expected errors into one line."""

import functools
import logging
import sys
import textwrap
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import ModuleType

from absl import app, flags

from ttoaa import bucket, signals

_HELP = ("-h", "-help", "--help", "-helpshort", "--helpshort", "-?")
_HELP_FULL = ("-helpfull", "--helpfull")


def run(
    name: str,
    main: Callable[[Sequence[str]], None],
    *shared: ModuleType,
    arguments: bool = False,
    unknown_flags: bool = False,
    without: Mapping[str, str] = types.MappingProxyType({}),
) -> None:
    """Run `main` as the command `ttoaa NAME` and exit; `ttoaa.signals` handles signals.

    A ValueError or an OSError of `main` becomes one line and exit code 1; a mistake in the command
    line becomes one line and exit code 2.

    Args:
        shared: modules whose flags the command takes in addition to its own.
        arguments: whether `main` takes arguments that are not flags.
        unknown_flags: whether flags that nobody defined are passed to `main`, too.
        without: shared flags that the command does not take, and what to do instead.
    """
    signals.install(name)
    parse = functools.partial(_parse, name, main, shared, arguments, unknown_flags, without)
    try:
        with signals.reader_may_leave():
            app.run(functools.partial(call, name, main), flags_parser=parse)
    except SystemExit as ended:
        if not ended.code:
            signals.succeeded()
        raise


def call(name: str, main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> None:
    """Call `main`; exit with one line where it raises a ValueError or an OSError."""
    for library in ("jax", "matplotlib"):
        logging.getLogger(library).setLevel(logging.WARNING)  # absl shows what they say at INFO
    try:
        main(argv)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and signals.reader_left():
            raise
        sys.exit(f"{name}: {one_line(error)}")


def one_line(error: Exception) -> str:
    """Return the error's message without the lines that gin adds to those of its classes."""
    first = str(error).partition("\n  In call to configurable")[0]
    return bucket.named_by_url(" ".join(first.split("\n")))


def _parse(
    name: str,
    main: Callable[[Sequence[str]], None],
    shared: Sequence[ModuleType],
    arguments: bool,
    unknown_flags: bool,
    without: Mapping[str, str],
    argv: Sequence[str],
) -> list[str]:
    given = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    full = any(argument in _HELP_FULL for argument in given)
    if full or any(argument in _HELP for argument in given):
        print(help_text(name, main, shared, full=full, without=without))
        sys.exit()
    try:
        rest = flags.FLAGS(list(argv), known_only=unknown_flags)
    except flags.Error as error:
        problem = " ".join(str(error).split())
        for flag in _ours(main, shared):
            if problem.startswith(f"flag --{flag.name}=None: "):
                problem = f"--{flag.name} is required"
        _refuse(name, problem)
    for flag in without:
        if flags.FLAGS[flag].present:
            _refuse(name, f"--{flag} is not a flag of {name}: {without[flag]}")
    if rest[1:] and not (arguments or unknown_flags):
        _refuse(name, f"unexpected argument {rest[1]!r}: write the value of a flag after '='")
    return rest


def _refuse(name: str, problem: str) -> None:
    print(f"{name}: {problem} (flags: ttoaa {name} --help)", file=sys.stderr)
    sys.exit(2)


def help_text(
    name: str,
    main: Callable[[Sequence[str]], None],
    shared: Sequence[ModuleType],
    *,
    full: bool = False,
    without: Collection[str] = (),
) -> str:
    """Describe the command and its flags, its own first; with `full` also those of libraries."""
    own = _flags_of(main.__module__)
    ours = [flag for flag in _ours(main, shared) if flag.name not in without]
    common = [flag for flag in ours if flag not in own]
    sections = [("flags", own), ("common flags", common)]
    if full:
        every = [flags.FLAGS[flag] for flag in sorted(set(flags.FLAGS))]
        sections += [("flags of libraries", [flag for flag in every if flag not in ours])]
    lines = [
        f"usage: ttoaa {name} [flags]",
        "",
        (sys.modules[main.__module__].__doc__ or "").strip(),
    ]
    for title, found in sections:
        if found:
            lines += ["", f"{title}:", *(line for flag in found for line in _describe(flag))]
    if not full:
        lines += ["", "--helpfull also lists the flags of libraries."]
    return "\n".join(lines)


def _ours(
    main: Callable[[Sequence[str]], None], shared: Sequence[ModuleType]
) -> list["flags.Flag[object]"]:
    found: list[flags.Flag[object]] = []
    for module in (main.__module__, *(each.__name__ for each in shared)):
        found += [flag for flag in _flags_of(module) if flag not in found]
    return found


def _flags_of(module: str) -> list["flags.Flag[object]"]:
    return flags.FLAGS.get_key_flags_for_module(module)


def _describe(flag: "flags.Flag[object]") -> Iterator[str]:
    shown, text = f"--{flag.name}", " ".join((flag.help or "").split())
    details = []
    if isinstance(flag.parser, flags.EnumParser):
        values = "|".join(flag.parser.enum_values)
        shown, text = f"{shown}={values}", text.removeprefix(f"<{values}>: ")
    elif isinstance(flag.parser, flags.BooleanParser):
        shown = f"--[no]{flag.name}"
    elif flag.boolean:  # its value may be left out
        shown += "[=…]"
    else:
        shown += "=…"
        details.append(flag.parser.syntactic_help)
    if _is_required(flag):
        details.append("required")
    elif flag.default not in (None, [], ""):
        details.append(f"default: {(flag.default_as_str or '').strip(chr(39))}")
    noted = "; ".join(filter(None, details))
    yield f"  {shown}"
    indent = " " * 6
    text = f"{text} ({noted})" if noted else text
    yield from textwrap.wrap(
        text, 92, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _is_required(flag: "flags.Flag[object]") -> bool:
    """Whether the command line must name the flag: absl has no field for it, only a validator."""
    try:
        for validator in flag.validators:
            validator.verify(flags.FLAGS)
    except flags.ValidationError:
        return flag.value is None
    return False
