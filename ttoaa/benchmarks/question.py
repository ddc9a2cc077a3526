"""Multiple-choice questions, sources of them, and the records that they are read from.

A question has a context and a continuation for each choice; a model chooses by the likelihood of
the continuations (see `ttoaa.scoring.multiple_choice`). Records are JSON lines, plain or gzipped,
or rows of Parquet files.
"""

import dataclasses
import gzip
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import gin
import numpy as np

from ttoaa import parquet_io
from ttoaa.config_fields import Count, PositiveInt, config_class
from ttoaa.json_io import parse_json
from ttoaa.statistics.bootstrap import keyed_rng

Record = Mapping[str, Any]
_INTEGER = re.compile(r"\s*-?[0-9]{1,18}\s*")


def text_field(record: Record, name: str, may_be_empty: bool = False) -> str:
    """Return a field that holds text; KeyError if it is missing, ValueError if it is not text."""
    return _check_text(record[name], name, may_be_empty)


def texts_field(record: Record, name: str) -> list[str]:
    """Return a field that holds a list of non-empty texts."""
    values = record[name]
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name!r} must be a list of texts, not {values!r}")
    return [_check_text(value, name) for value in values]


def integer_field(record: Record, name: str) -> int:
    """Return a field that holds an integer or its digits."""
    value = record[name]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (isinstance(value, str) and _INTEGER.fullmatch(value)):
        raise ValueError(f"{name!r} must be a whole number, not {value!r}")
    return int(value)


def _check_text(value: Any, name: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{name!r} must be a text and not empty, not {value!r}")
    return value


def check_paths(paths: Sequence[str], kind: str) -> None:
    """Raise ValueError unless `paths` is a list of existing files; `kind` is the class to name."""
    if isinstance(paths, str) or not paths:
        raise ValueError(f"{kind}.paths must be a list of paths, not {paths!r}")
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise ValueError(f"{kind}: there is no file {path}")


def read_records(path: str | pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the fields of each non-empty JSON line, or each row of a Parquet file.

    Raises ValueError, with file and line, for a line that is not a JSON object.
    """
    if str(path).endswith(".parquet"):
        rows = parquet_io.read_parquet(path).to_pylist()
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows))
        return
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "rb") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}:{number}"
                    yield place, parse_json(line, place, dict[str, Any])
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a complete gzip file: {error}") from error


@dataclasses.dataclass(frozen=True)
class Question:
    """A question: choice k is contexts[k] + continuations[k]; `label` is the right choice."""

    id: str
    benchmark: str
    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    label: int
    unconditional: str | None = None
    """A context without the question, to score a continuation on its own (PMI)."""

    def __post_init__(self) -> None:
        n = len(self.continuations)
        if len(self.contexts) != n:
            raise ValueError(
                f"question {self.id} has {len(self.contexts)} contexts, {n} continuations"
            )
        if not 0 <= self.label < n:
            raise ValueError(f"question {self.id} has {n} options and label {self.label}")
        if not all(text.strip() for text in self.continuations):
            raise ValueError(f"question {self.id} has an empty option")

    @property
    def texts(self) -> list[str]:
        """The full text of every choice."""
        return [a + b for a, b in zip(self.contexts, self.continuations, strict=True)]


class Source(Protocol):
    """A source of questions (`Contamination.questions`)."""

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        """Return at least `count` questions; ValueError if there are fewer."""
        ...


def with_shots(question: Question, shots: Sequence[Question]) -> Question:
    """Return the question after the solved ones of its benchmark, separated by empty lines.

    A benchmark of MMLU is a subject. Raises ValueError if `shots` has none of the benchmark, or
    contains the question.
    """
    mine = [shot.texts[shot.label] for shot in shots if shot.benchmark == question.benchmark]
    if shots and not mine:
        raise ValueError(f"no shot is of {question.benchmark}: add solved questions of it")
    if question.texts[question.label] in mine:
        raise ValueError(f"question {question.id} is itself among the shots: use other shots")
    prefix = "".join(f"{text}\n\n" for text in mine)
    return dataclasses.replace(
        question, contexts=tuple(prefix + context for context in question.contexts)
    )


def require_count(
    questions: Iterable[Question], count: int, max_characters: int | None, kind: str
) -> list[Question]:
    """Return the questions whose choices all fit `max_characters`; ValueError below `count`."""
    found = [
        question
        for question in questions
        if max_characters is None or max(map(len, question.texts)) <= max_characters
    ]
    if len(found) < count:
        raise ValueError(
            f"{count} questions are needed, but {kind} has only {len(found)}: lower the "
            "experiment's groups, add files, or raise max_characters"
        )
    return found


def check_distinct(questions: Sequence[Question]) -> None:
    """Raise ValueError for duplicates, which could be in training and in the holdout."""
    seen: dict[object, str] = {}
    for question in questions:
        for key in (question.id, frozenset(question.texts)):
            if key in seen:
                raise ValueError(f"question {question.id} is a duplicate of {seen[key]}")
            seen[key] = question.id


def randomise_groups(
    questions: Sequence[Question], sizes: Sequence[int], rng: np.random.Generator
) -> list[list[Question]]:
    """Draw disjoint groups of the given sizes, each with the same mix of benchmarks.

    The questions of each benchmark are shuffled and spread evenly over [0, 1), and a group is an
    interval of that line, so its share of a benchmark is exact to about one question.
    """
    benchmarks = np.array([question.benchmark for question in questions])
    place = np.empty(len(questions))
    for benchmark in np.unique(benchmarks):
        members = rng.permutation(np.flatnonzero(benchmarks == benchmark))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    order = np.argsort(place)[: sum(sizes)]
    return [[questions[i] for i in part] for part in np.split(order, np.cumsum(sizes)[:-1])]


def question_fields(question: Question) -> dict[str, Any]:
    """Return the fields that an item keeps for `question_from_item`."""
    fields = {
        "benchmark": question.benchmark,
        "contexts": list(question.contexts),
        "continuations": list(question.continuations),
        "label": question.label,
    }
    if question.unconditional is not None:
        fields["unconditional"] = question.unconditional
    return fields


def question_from_item(item: Any, unconditional: bool) -> Question:
    """Restore the question of an item.

    `unconditional` keeps the unconditional context, which costs one request more for every choice.
    """
    return Question(
        item.id,
        item.benchmark,
        tuple(item.contexts),
        tuple(item.continuations),
        int(item.label),
        item.unconditional if unconditional else None,
    )


@gin.configurable
@config_class
class PartOf:
    """Part `part` of the questions of `whole`, which are divided at random into `parts`.

    Two experiments on the same files would train on each other's holdouts, because each draws its
    own groups: give them different parts. The division depends on `key` alone, so all seeds of a
    study share it, and each part gets equally many questions of a benchmark (to within one).
    `whole` must return all its questions, as files and tasks do.
    """

    whole: Source
    part: Count = 0
    parts: PositiveInt = 2
    key: int = 0
    """Another key divides differently. Parts are disjoint only if key, parts and whole are the same
    in all experiments that share the questions and the files have no duplicates."""

    def __post_init__(self) -> None:
        if self.part >= self.parts:
            raise ValueError(f"PartOf.part must be 0 to {self.parts - 1}, not {self.part}")

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        own = keyed_rng("parts", self.key)
        every = self.whole.questions(count, own)
        by_benchmark: dict[str, list[int]] = {}
        for k, question in enumerate(every):
            by_benchmark.setdefault(question.benchmark, []).append(k)
        # Dealt like cards: each benchmark continues where the last one ended.
        dealt = [k for places in by_benchmark.values() for k in own.permutation(places).tolist()]
        mine = [every[k] for k in sorted(dealt[self.part :: self.parts])]
        return require_count(mine, count, None, f"part {self.part} of {self.parts}")
