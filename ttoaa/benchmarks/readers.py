"""Questions from a benchmark's records: lines of JSON, put into their format here.

Questions from files of ranked-classification requests, as evaluation suites publish them.

Questions from Parquet files of full texts, split where their choices begin to differ.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import numpy as np
import pandas as pd

from ttoaa import parquet_io
from ttoaa.benchmarks import formats, records
from ttoaa.benchmarks.question import Question, enough, with_shots
from ttoaa.benchmarks.records import number, text


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RecordQuestions:
    """Questions of one benchmark from JSON lines (.jsonl or .jsonl.gz) of its own records.

    The fields are those of the Hugging Face hub or of TFDS (see `formats`); a question's id is the
    benchmark and the number of its record, over all files. No TensorFlow is needed.
    """

    paths: Sequence[str]
    benchmark: str
    shots: str | None = None
    """A file of records of the same kind, solved before each question in that order."""
    max_characters: int | None = None
    """Only questions all of whose choices, with their shots, are at most this long."""

    def __post_init__(self) -> None:
        formats.named(self.benchmark)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        records.check_paths(self.paths, "RecordQuestions")
        shots = read_shots(self.benchmark, self.shots)
        questions = _read_record_file(self.benchmark, self.paths)
        found = (with_shots(question, shots) for question in questions)
        return enough(found, count, self.max_characters, "RecordQuestions")


def read_shots(benchmark: str, path: str | None) -> list[Question]:
    """The solved questions in a file of records; none without a file."""
    if path is None:
        return []
    records.check_paths([path], "shots")
    return list(_read_record_file(benchmark, [path]))


def _read_record_file(benchmark: str, paths: Sequence[str]) -> Iterator[Question]:
    lines = itertools.chain.from_iterable(map(records.records, paths))
    for place_in_file, (place, record) in enumerate(lines):
        try:
            yield formats.question(benchmark, record, place_in_file)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


UNCONDITIONAL = 1_000_000
"""Added to a question's doc_id in the requests that score its options without it."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RequestQuestions:
    """Questions from JSON lines (.jsonl or .jsonl.gz) as in OLMES: a line for each choice.

    A line has request.context and request.continuation, task_name, doc_id, idx (which choice) and
    label. Lines whose doc_id is 1,000,000 higher ask for the same continuations after a context
    that is the same for all of them: the half that PMI needs. Every question has it or none. Shots
    are part of the contexts. A question's id is its task's name and its doc_id.
    """

    paths: Sequence[str]
    max_characters: int | None = None
    """Only questions all of whose choices are at most this long, with what stands before them."""

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        records.check_paths(self.paths, "RequestQuestions")
        found = itertools.chain.from_iterable(map(_read_requests, self.paths))
        return enough(found, count, self.max_characters, "RequestQuestions")


@dataclasses.dataclass(frozen=True)
class _Line:
    task: str
    doc: int
    option: int
    label: int
    context: str
    continuation: str


def _read_requests(path: str) -> Iterator[Question]:
    lines = [_line(place, record) for place, record in records.records(path)]
    groups: dict[tuple[str, int], list[_Line]] = {}
    for line in lines:
        groups.setdefault((line.task, line.doc), []).append(line)
    for (task, doc), choices in groups.items():
        options = sorted(line.option for line in choices)
        if options != list(range(len(choices))) or len({line.label for line in choices}) != 1:
            raise ValueError(
                f"{path}: the choices of {task} {doc} are {options}, with labels "
                f"{[line.label for line in choices]}: they must be 0, 1, …, with one label"
            )
        choices.sort(key=lambda line: line.option)
    wanted = [key for key in groups if key[1] < UNCONDITIONAL]
    halves = [(task, doc + UNCONDITIONAL) for task, doc in wanted]
    found = [groups.pop(half, None) for half in halves]
    if len(groups) > len(wanted) or (any(found) and not all(found)):
        raise ValueError(f"{path}: some questions have unconditional requests, others have none")
    for key, half in zip(wanted, found, strict=True):
        yield _question(path, groups[key], half)


def _line(place: str, record: dict[str, Any]) -> _Line:
    try:
        return _Line(
            text(record, "task_name"),
            number(record, "doc_id"),
            number(record, "idx"),
            number(record, "label"),
            text(record["request"], "context", may_be_empty=True),
            text(record["request"], "continuation"),
        )
    except KeyError as error:
        raise ValueError(f"{place} has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is no ranked-classification request: {error}") from error


def _question(path: str, choices: list[_Line], half: list[_Line] | None) -> Question:
    first = choices[0]
    continuations = tuple(line.continuation for line in choices)
    unconditional = None
    if half is not None:
        unconditional = half[0].context
        same = {line.context for line in half} == {unconditional}
        if not same or tuple(line.continuation for line in half) != continuations:
            raise ValueError(
                f"{path}: the unconditional requests of {first.task} {first.doc} must have its "
                "continuations, and one context"
            )
    return Question(
        f"{first.task}-{first.doc}",
        first.task,
        tuple(line.context for line in choices),
        continuations,
        first.label,
        unconditional,
    )


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
        records.check_paths(self.paths, "ParquetQuestions")
        table = pd.concat([_read_parquet_questions(path) for path in self.paths], ignore_index=True)
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


def _read_parquet_questions(path: str) -> pd.DataFrame:
    table = parquet_io.read_parquet(path).to_pandas()
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
