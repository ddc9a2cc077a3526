"""Prepare or search a corpus with Apache Beam, on one machine or a cluster.

  ttoaa beam prepare --workdir=runs/mine --gin_file=my.gin --runner=DirectRunner
  ttoaa beam scan --workdir=runs/mine --patterns=patterns.jsonl --split=train

Flags that are not listed here go to Beam. All workers must see the study's folder at the same path.
"""

import difflib
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from absl import flags

from ttoaa import command_line, study_flags
from ttoaa.data.corpus import MANIFEST, SPLITS, Corpus
from ttoaa.data.ngram_search import Patterns, scan_path
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.json_io import mismatch, parse_json

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_PATTERNS = flags.DEFINE_string(
    "patterns",
    None,
    "scan: what to search for: JSON lines with a text or tokens each, or a file of Patterns.save",
)
_SPLIT = flags.DEFINE_enum("split", SPLITS[0], SPLITS, "scan: the part of the corpus to search")
_WINDOW = flags.DEFINE_integer(
    "window",
    None,
    "scan: find only patterns that lie within one window of this many tokens; by default anywhere",
    1,
)


def main(argv: Sequence[str]) -> None:
    """Run a task; `argv` is the command's name, the task, and the options of Beam."""
    commands = {"prepare": _prepare, "scan": _scan}
    if len(argv) < 2 or argv[1] not in commands:
        raise ValueError(f"name the task: ttoaa beam {' or '.join(commands)}")
    if stray := [argument for argument in argv[2:] if not argument.startswith("-")]:
        raise ValueError(f"unexpected argument {stray[0]!r}: write the value of a flag after '='")
    try:
        commands[argv[1]](_options(argv[2:]))
    except ImportError as error:  # Beam is an extra
        raise ValueError(str(error)) from error


def _options(rest: Sequence[str]) -> "PipelineOptions":
    """Parse Beam's options; ValueError for a mistyped flag of ours, which Beam would ignore."""
    from ttoaa.data import beam

    options = beam.PipelineOptions(list(rest))
    everything = options.get_all_options(retain_unknown_options=True)
    for name in sorted(everything.keys() - options.get_all_options()):
        if ours := difflib.get_close_matches(name, flags.FLAGS, 1, 0.8):
            raise ValueError(f"there is no --{name}: did you mean --{ours[0]}?")
    return options


def _prepare(options: "PipelineOptions") -> None:
    study_flags.check_study()
    from ttoaa import config
    from ttoaa.data.beam import prepare_with_beam

    study, folder = config.load_from_flags(), config.workdir_from_flags().corpus
    existed = (folder / MANIFEST).exists()
    corpus = prepare_with_beam(study.prepare, folder, options)
    found = "exists already" if existed else "is ready"
    print(f"beam: {folder} {found}: {corpus.describe()}; {corpus.manifest.source}")


def _scan(options: "PipelineOptions") -> None:
    from ttoaa.data.beam import scan_with_beam

    if _PATTERNS.value is None:
        raise ValueError("scan needs --patterns")
    corpus = Corpus.open(study_flags.workdir_from_flags().corpus, verify=False)
    patterns = _load_patterns(pathlib.Path(_PATTERNS.value).expanduser(), corpus.tokenizer)
    found = scan_with_beam(corpus, _SPLIT.value, patterns, options, _WINDOW.value)
    path = scan_path(corpus, _SPLIT.value, patterns, _WINDOW.value)
    print(
        f"beam: {len(found.where):,} occurrences of {len(np.unique(found.pattern)):,} of "
        f"{len(patterns):,} patterns in {_SPLIT.value} of {corpus.folder}: {path}"
    )


class _Pattern(TypedDict):
    text: NotRequired[str]
    tokens: NotRequired[list[int]]


def _load_patterns(path: pathlib.Path, tokenizer: Tokenizer) -> Patterns:
    """Load a file of Patterns.save (.npz), or JSON lines with a text or tokens each."""
    if path.suffix == ".npz":
        return Patterns.load(path)
    sequences = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):  # of bytes: \n alone
        place = f"{path}:{number}"
        given = parse_json(line, place, dict[str, Any])
        if given.keys().isdisjoint(_Pattern.__annotations__):
            raise ValueError(f"{place} has neither a text nor tokens")
        if problem := mismatch(given, _Pattern):
            raise ValueError(f"{place} {problem}")
        tokens = given["tokens"] if "tokens" in given else tokenizer.encode(given["text"])
        if any(not 0 <= token < tokenizer.vocab_size for token in tokens):
            raise ValueError(
                f"{place} has a token outside the vocabulary of {tokenizer.vocab_size}"
            )
        sequences.append(np.array(tokens))
        if not len(tokens):
            raise ValueError(f"{path}:{number} has no tokens: remove that line")
    return Patterns(sequences)


if __name__ == "__main__":
    command_line.run(
        "beam", main, study_flags, unknown_flags=True, without={"seed": "all seeds share a corpus"}
    )
