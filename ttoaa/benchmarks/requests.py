"""Questions from files of ranked-classification requests, as evaluation suites publish them."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.benchmarks import files
from ttoaa.benchmarks.fields import number, text
from ttoaa.benchmarks.question import Question, enough

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
        files.check_paths(self.paths, "RequestQuestions")
        found = itertools.chain.from_iterable(map(_read, self.paths))
        return enough(found, count, self.max_characters, "RequestQuestions")


@dataclasses.dataclass(frozen=True)
class _Line:
    task: str
    doc: int
    option: int
    label: int
    context: str
    continuation: str


def _read(path: str) -> Iterator[Question]:
    lines = [_line(place, record) for place, record in files.records(path)]
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
