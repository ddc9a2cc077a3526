"""Questions from Parquet files of full texts, split where their choices begin to differ."""

import dataclasses
import re
from collections.abc import Sequence

import gin
import numpy as np
import pandas as pd

from ttoaa import parquet
from ttoaa.benchmarks import files
from ttoaa.benchmarks.question import Question, enough


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ParquetQuestions:
    """Benchmark questions in OLMES cloze format, as released with Bordt et al. (2025).

    Parquet columns: options (the full text of every choice), label, benchmark, question-id. Where
    all choices share an "Answer:" or "Solution:" line the continuation is what follows it; else
    (HellaSwag) it starts at the last word boundary that they share. For benchmarks of `cloze`
    (WinoGrande) the choices fill a blank, and what follows the blank is scored.
    """

    paths: Sequence[str]
    max_characters: int | None = None
    """Only questions all of whose choices are at most this long; None takes all."""
    cloze: Sequence[str] = ("winogrande",)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        files.check_paths(self.paths, "ParquetQuestions")
        table = pd.concat([_read(path) for path in self.paths], ignore_index=True)
        columns = (table[name] for name in _COLUMNS)
        found = (self._question(*values) for values in zip(*columns, strict=True))
        return enough(found, count, self.max_characters, "ParquetQuestions")

    def _question(
        self, options: Sequence[str], label: int, benchmark: str, number: object
    ) -> Question:
        name = f"{benchmark}-{number}"
        if len(options) < 2:
            raise ValueError(f"question {name} has {len(options)} options and label {label}")
        if not all(isinstance(text, str) for text in options):
            raise ValueError(f"question {name} has an option that is no text")
        starts = (
            _after_blank(options) if benchmark in self.cloze else [_shared(options)] * len(options)
        )
        contexts = tuple(text[:i] for text, i in zip(options, starts, strict=True))
        continuations = tuple(text[i:] for text, i in zip(options, starts, strict=True))
        return Question(name, benchmark, contexts, continuations, int(label))


_COLUMNS = ("options", "label", "benchmark", "question-id")


def _read(path: str) -> pd.DataFrame:
    table = parquet.read(path).to_pandas()
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ValueError(f"ParquetQuestions: {path} has no column {missing[0]!r}")
    return table[list(_COLUMNS)]


def _shared(options: Sequence[str]) -> int:
    """Where the continuations start, counted in characters."""
    prefix = _common_prefix(options)
    for tag in ("\nAnswer:", "\nSolution:"):
        if tag in prefix:
            return prefix.rindex(tag) + len(tag)
    return max(0, prefix.rfind(" "))


def _after_blank(options: Sequence[str]) -> list[int]:
    """Where the text after the blank starts in each choice, at a word boundary."""
    start = _common_prefix(options).rfind(" ") + 1
    suffix = _common_prefix([text[start:][::-1] for text in options])[::-1]
    boundary = re.search(r"\W", suffix)
    length = len(suffix) - boundary.start() if boundary else 0
    return [len(text) - length for text in options]


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    differs = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(differs, len(low))]
