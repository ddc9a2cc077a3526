"""Write a new, working experiment: its class, a config for it alone, and a test.

  ttoaa new-experiment phone-calls
  ttoaa new-experiment phone-calls --folder=my_lab

The files are the example of docs/extending/experiment.md under your name, for you to edit. They are
written to the current folder, from which configs import experiments, or to --folder below it.
"""

import importlib.util
import pathlib
import re
from collections.abc import Sequence

from absl import flags

from ttoaa import command_line
from ttoaa.workdir import write_text

_FOLDER = flags.DEFINE_string(
    "folder", ".", "where to write: the current folder, or one below it, which becomes a package"
)
_PACKAGE = pathlib.Path(__file__).parent
_GUIDES = (_PACKAGE / "guides", _PACKAGE.parent / "docs/extending")
"""The folder of experiment.md in an installed package, and in a checkout."""
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


def main(argv: Sequence[str]) -> None:
    name = " ".join(argv[1:])
    if not _NAME.fullmatch(name):
        raise ValueError(
            "give one NAME of lower-case letters and digits, with '-' between words, such as "
            f"phone-calls, not {name or 'nothing'!r}"
        )
    here, module = pathlib.Path.cwd(), name.replace("-", "_")
    folder = (here / pathlib.Path(_FOLDER.value).expanduser()).resolve()
    if not folder.is_relative_to(here):
        raise ValueError(
            f"--folder={_FOLDER.value} must be below {here}: configs import from there"
        )
    parts = (*folder.relative_to(here).parts, module)
    files = example(parts, name)
    _check_names(here, folder, parts, files)
    for path, text in files.items():
        write_text(folder / path, text)
    made = [str((folder / path).relative_to(here)) for path in files]
    code, config, test = made
    print(f"new-experiment: wrote {code}, {config} and {test}; from {here}:")
    print(f"new-experiment: test it with  python -m pytest {test}")
    if importlib.util.find_spec("pytest") is None:
        print("new-experiment: which needs    pip install pytest")
    print(f"new-experiment: run it with   ttoaa study --gin_file={config} --workdir=runs/{name}")


def example(parts: Sequence[str], name: str) -> dict[str, str]:
    """Return {file name: text} of the guide's experiment, its config and its test, renamed.

    `parts` are the module's path from the folder where commands run, as in my_lab.phone_calls.
    """
    guide = next(path for path in (g / "experiment.md" for g in _GUIDES) if path.is_file())
    blocks = re.findall(r"^```\w+\n(.*?)^```", guide.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    code, config, test = blocks[:3]
    *above, module = parts
    config = config.replace("import phone_numbers", f"import {'.'.join(parts)}")
    config = config.replace("phone_numbers.gin", "/".join((*above, "phone_numbers.gin")))
    return {
        path: text.replace("PhoneNumbers", _class_name(module))
        .replace("phone_numbers", module)
        .replace("phone-numbers", name)
        for path, text in zip(
            (f"{module}.py", f"{module}.gin", f"test_{module}.py"),
            (code, config, test),
            strict=True,
        )
    }


def _class_name(module: str) -> str:
    return "".join(word.capitalize() for word in module.split("_"))


def _check_names(
    here: pathlib.Path, folder: pathlib.Path, parts: Sequence[str], files: dict[str, str]
) -> None:
    """Raise ValueError for a name that is in use: by a file, by Python or by a class of ttoaa."""
    for path in (folder / name for name in files):
        if path.exists():
            raise ValueError(f"{path} exists: choose another NAME, or move the file away")
    if wrong := [part for part in parts if not part.isidentifier()]:
        raise ValueError(f"Python cannot import a folder named {wrong[0]!r}: use another --folder")
    spec = importlib.util.find_spec(parts[0])
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    if spec and {here / parts[0]}.isdisjoint(map(pathlib.Path, filter(None, places))):
        raise ValueError(f"{parts[0]!r} is a Python module already: use another NAME or --folder")
    kind = _class_name(parts[-1])
    imported = re.compile(rf"^(?:from|import) .*\b{kind}\b", re.MULTILINE)
    made = re.compile(rf"^class {kind}\b", re.MULTILINE)
    sources = (path.read_text("utf-8") for path in _PACKAGE.rglob("*.py"))
    if any(map(imported.search, files.values())) or any(map(made.search, sources)):
        raise ValueError(f"{kind} is already a name in ttoaa: choose another NAME")


if __name__ == "__main__":
    command_line.run("new-experiment", main, arguments=True)
