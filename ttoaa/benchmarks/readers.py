"""Sources that read questions from files: records, ranked-classification requests, Parquet."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import numpy as np
import pandas as pd

from ttoaa import parquet_io
from ttoaa.benchmarks import formats
from ttoaa.benchmarks.question import (
    Question,
    check_paths,
    integer_field,
    read_records,
    require_count,
    text_field,
    with_shots,
)
from ttoaa.config_fields import Name, Paths, PositiveInt, config_class


@gin.configurable
@config_class
class RecordQuestions:
    """Questions of one benchmark from its records as JSON lines (.jsonl or .jsonl.gz).

    The fields are those of the Hugging Face hub or of TFDS (see `formats`). A question's id is the
    benchmark and the number of its record, counted over all files. Needs no TensorFlow.
    """

    paths: Paths
    benchmark: str
    shots: Name | None = None
    """A file of records of the same kind, prepended to each question with their solutions."""
    max_characters: PositiveInt | None = None
    """Skip questions with a longer choice, shots included; None: keep all."""

    def __post_init__(self) -> None:
        formats.get_benchmark(self.benchmark)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        check_paths(self.paths, "RecordQuestions")
        shots = read_shots(self.benchmark, self.shots)
        questions = _read_questions(self.benchmark, self.paths)
        found = (with_shots(question, shots) for question in questions)
        return require_count(found, count, self.max_characters, "RecordQuestions")


def read_shots(benchmark: str, path: str | None) -> list[Question]:
    """Read the solved questions in a file of records; an empty list if `path` is None."""
    if path is None:
        return []
    check_paths([path], "shots")
    return list(_read_questions(benchmark, [path]))


def _read_questions(benchmark: str, paths: Sequence[str]) -> Iterator[Question]:
    lines = itertools.chain.from_iterable(map(read_records, paths))
    for place_in_file, (place, record) in enumerate(lines):
        try:
            yield formats.format_question(benchmark, record, place_in_file)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


UNCONDITIONAL = 1_000_000
"""Offset of the doc_id of requests that score the options without the question."""


@gin.configurable
@config_class
class RequestQuestions:
    """Questions from ranked-classification requests as OLMES publishes them (.jsonl, .jsonl.gz).

    A line is one choice: request.context, request.continuation, task_name, doc_id, idx (the choice)
    and label. Lines whose doc_id is 1,000,000 higher score the same continuations after one common
    context, for PMI; all questions have such lines or none. Shots are part of the contexts. A
    question's id is its task_name and doc_id.
    """

    paths: Paths
    max_characters: PositiveInt | None = None
    """Skip questions with a longer choice, context included; None: keep all."""

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        check_paths(self.paths, "RequestQuestions")
        found = itertools.chain.from_iterable(map(_read_requests, self.paths))
        return require_count(found, count, self.max_characters, "RequestQuestions")


@dataclasses.dataclass(frozen=True)
class _Line:
    task: str
    doc: int
    option: int
    label: int
    context: str
    continuation: str


def _read_requests(path: str) -> Iterator[Question]:
    lines = [_parse_line(place, record) for place, record in read_records(path)]
    groups: dict[tuple[str, int], list[_Line]] = {}
    for line in lines:
        groups.setdefault((line.task, line.doc), []).append(line)
    for (task, doc), choices in groups.items():
        options = sorted(line.option for line in choices)
        if options != list(range(len(choices))) or len({line.label for line in choices}) != 1:
            raise ValueError(
                f"{path}: the choices of {task} {doc} are {options}, with labels "
                f"{[line.label for line in choices]}: they must be 0, 1, … with one label"
            )
        choices.sort(key=lambda line: line.option)
    wanted = [key for key in groups if key[1] < UNCONDITIONAL]
    blank = [(task, doc + UNCONDITIONAL) for task, doc in wanted]
    found = [groups.pop(key, None) for key in blank]
    if len(groups) > len(wanted) or (any(found) and not all(found)):
        raise ValueError(f"{path}: some questions have unconditional requests, others have none")
    for key, unconditional in zip(wanted, found, strict=True):
        try:
            question = _question(groups[key], unconditional)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        yield question


def _parse_line(place: str, record: dict[str, Any]) -> _Line:
    try:
        return _Line(
            text_field(record, "task_name"),
            integer_field(record, "doc_id"),
            integer_field(record, "idx"),
            integer_field(record, "label"),
            text_field(record["request"], "context", may_be_empty=True),
            text_field(record["request"], "continuation"),
        )
    except KeyError as error:
        raise ValueError(f"{place} has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is not a ranked-classification request: {error}") from error


def _question(choices: list[_Line], blank: list[_Line] | None) -> Question:
    """Build a question from the lines of its choices and those without the question."""
    first = choices[0]
    continuations = tuple(line.continuation for line in choices)
    unconditional = None
    if blank is not None:
        unconditional = blank[0].context
        same = {line.context for line in blank} == {unconditional}
        if not same or tuple(line.continuation for line in blank) != continuations:
            raise ValueError(
                f"the unconditional requests of {first.task} {first.doc} must share one "
                "context and have the same continuations as the choices"
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
@config_class
class ParquetQuestions:
    """Benchmark questions in OLMES cloze format, as released with Bordt et al. (2025).

    Parquet columns: options (the full text of every choice), label, benchmark, question-id. If all
    choices share an "Answer:" or "Solution:" line, the continuation is the text after it; otherwise
    it starts at the last word boundary that they share. The endings of HellaSwag are found by its
    format. In the benchmarks of `cloze` (WinoGrande) the choices fill a blank, and the text after
    the blank is scored. The texts do not mark these two boundaries, so a boundary is inferred if
    all choices share words next to it. Use `RecordQuestions` if it must be exact.
    """

    paths: Paths
    max_characters: PositiveInt | None = None
    """Skip questions with a longer choice; None: keep all."""
    cloze: Sequence[Name] = ("winogrande",)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        check_paths(self.paths, "ParquetQuestions")
        table = pd.concat([_read_parquet_questions(path) for path in self.paths], ignore_index=True)
        columns = (table[name] for name in _COLUMNS)
        found = (self._split(*values) for values in zip(*columns, strict=True))
        return require_count(found, count, self.max_characters, "ParquetQuestions")

    def _split(
        self, options: Sequence[str], label: int, benchmark: str, number: object
    ) -> Question:
        name = f"{benchmark}-{number}"
        if len(options) < 2:
            raise ValueError(f"question {name} has {len(options)} options and label {label}")
        if not all(isinstance(text, str) for text in options):
            raise ValueError(f"question {name} has an option that is not a text")
        if benchmark in self.cloze:
            starts = _starts_after_blank(options)
        else:
            find = _start_of_ending if benchmark == "hellaswag" else _shared_start
            starts = [find(options)] * len(options)
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


def _shared_start(options: Sequence[str]) -> int:
    """Return the character at which the continuations start."""
    prefix = _common_prefix(options)
    for tag in ("\nAnswer:", "\nSolution:"):
        if tag in prefix:
            return prefix.rindex(tag) + len(tag)
    return max(0, prefix.rfind(" "))


_SENTENCE_END = re.compile(r"[.?!][\s\"')]*$|[.?!](?=\s)")
_VERBS = {"is", "are", "was", "were", "has", "have"}


def _start_of_ending(options: Sequence[str]) -> int:
    """Return the character at which HellaSwag's endings start; they may share their first words.

    A context of WikiHow ("How to …") ends with a sentence; an ending that begins with a title adds
    a second full stop. Other contexts end with a subject, and endings begin with its verb.
    """
    prefix = _common_prefix(options)
    end = len(prefix)
    if any(text[end : end + 1].isalnum() or len(text) == end for text in options):
        end = max(0, prefix.rfind(" "))
    context = prefix[:end].rstrip()
    if re.match(r"(?:[^.:]*: )?How to ", context):
        ends = list(_SENTENCE_END.finditer(context))
        return ends[-1].end() if ends else len(context)
    while (last := context.rpartition(" "))[2] in _VERBS and last[0]:
        context = last[0].rstrip()
    return len(context)


_NO_NOUNS = {
    *("is", "are", "was", "were", "be", "had", "has", "have", "did", "does", "do", "can", "could"),
    *("will", "would", "should", "may", "might", "must", "in", "on", "at", "of", "for", "from"),
    *("to", "with", "by", "as", "than", "that", "which", "who", "and", "or", "but", "not", "so"),
}
_DETERMINERS = {
    *("the", "a", "an", "this", "that", "these", "those"),
    *("my", "your", "his", "her", "its", "our", "their"),
}


def _starts_after_blank(options: Sequence[str]) -> list[int]:
    """Return for each choice the character at which the text after WinoGrande's blank starts.

    That text follows a space. A blank stands for a name or a noun phrase, so words that follow all
    choices belong to the choices if each sentence mentions the longer phrase earlier ("olive oil").
    """
    prefix = _common_prefix(options)
    start = prefix.rfind(" ") + 1
    suffix = _common_prefix([text[start:][::-1] for text in options])[::-1]
    boundary = re.search(r"\s", suffix) or re.search(r"\W", suffix)
    if not boundary:
        return [len(text) for text in options]
    after, before = suffix[boundary.start() :], prefix[:start].lower()
    fills = [text[start : len(text) - len(after)].lower() for text in options]
    named = all(text[start : start + 1].isupper() for text in options)
    if named and _DETERMINERS.isdisjoint(before.split()[-1:]):
        return [len(text) - len(after) for text in options]
    # The text after the blank must still begin with a space.
    while (word := re.match(r"\s([\w'-]+)(?=\s)", after)) and word[1].lower() not in _NO_NOUNS:
        fills = [fill + word[0].lower() for fill in fills]
        if not all(re.search(rf"(?<!\w){re.escape(fill)}(?!\w)", before) for fill in fills):
            break
        after = after[word.end() :]
    return [len(text) - len(after) for text in options]


def _common_prefix(texts: Sequence[str]) -> str:
    low, high = min(texts), max(texts)
    differs = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(differs, len(low))]
