"""Show which settings differ between two configs or two studies.

  ttoaa config diff configs/quickstart.gin mine.gin
  ttoaa config diff runs/one runs/two
  ttoaa config diff configs/paper.gin configs/paper.gin,configs/sizes/olmo2-179m.gin

A side is a study's folder, a config file, or several files separated by commas, of which later ones
override earlier ones. Values are compared as the study has them: includes, scopes and defaults are
resolved, and experiments are matched by name. The exit code is 0 if nothing differs, 1 if something
does, and 2 if a config cannot be read.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttoaa import bucket, signals
from ttoaa.workdir import Workdir

_LONGEST = 60
"""Characters of a value at most."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each setting that differs, and exit as `diff` does."""
    parser = argparse.ArgumentParser(
        prog="ttoaa config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=["diff"], help="what to do")
    parser.add_argument("one", help="a study's folder or config files")
    parser.add_argument("other", help="a study's folder or config files")
    asked = parser.parse_args(argv)
    try:
        files = [_files(side) for side in (asked.one, asked.other)]
        found = list(differing(*files))
    except (ValueError, OSError) as error:
        print(f"config: {error}", file=sys.stderr)
        sys.exit(2)
    if found:
        print("\n".join([f"--- {asked.one}", f"+++ {asked.other}", *found]))
        sys.exit(1)


def differing(one: Sequence[pathlib.Path], other: Sequence[pathlib.Path]) -> Iterator[str]:
    """Yield 'setting: value in one → value in other' for each setting that differs.

    Raises ValueError, which names the files, for a bad config.
    """
    from ttoaa.identity import differences

    for path, there, here in differences(_settings(one), _settings(other)):
        yield f"{path}: {_shown(there)} → {_shown(here)}"


def _files(side: str) -> list[pathlib.Path]:
    """Return the config files of one side; raise ValueError for a folder without a study."""
    files = [bucket.expand(name) for name in side.split(",")]
    if not files[0].is_dir():
        return files
    saved = Workdir(files[0]).config
    if not saved.exists():
        raise ValueError(f"{side} holds no study: name its config instead")
    from ttoaa.gin_files import sources_of

    sources_of(saved)  # raises if it is damaged or was edited
    return [saved]


def _settings(files: Sequence[pathlib.Path]) -> dict[str, Any]:
    """Return the identity of all parts of a study, its experiments by name."""
    from ttoaa import config  # imported late, so that help is immediate
    from ttoaa.identity import identity

    where = ",".join(map(str, files))
    try:
        study, _ = config.load(files)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    parts = {field.name: getattr(study, field.name) for field in dataclasses.fields(study)}
    named = {each.name: each for each in parts.pop("experiments")}
    if len(named) < len(study.experiments):
        raise ValueError(f"{where}: two experiments have the same name: give each its own")
    return identity(**parts, experiments=named)


def _shown(value: Any) -> str:
    text = _text(value)
    if len(text) <= _LONGEST:
        return text
    return (
        f"{value.get('type', '')}(…)" if isinstance(value, Mapping) else f"{text[: _LONGEST - 1]}…"
    )


def _text(value: Any) -> str:
    """Write an object as a config does: Within(start=0.0, stop=0.3)."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{k}={_text(v)}" for k, v in value.items() if k != "type")
        return f"{value.get('type', '')}({inner})"
    if isinstance(value, list):
        return f"({', '.join(map(_text, value))})"
    return str(value)


if __name__ == "__main__":
    signals.install("config")
    main()
    signals.succeeded()
