"""Questions from a benchmark's records: lines of JSON, put into their format here."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import gin
import numpy as np

from ttoaa.benchmarks import files, formats
from ttoaa.benchmarks.question import Question, enough, with_shots


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
        files.check_paths(self.paths, "RecordQuestions")
        shots = read_shots(self.benchmark, self.shots)
        questions = _read(self.benchmark, self.paths)
        found = (with_shots(question, shots) for question in questions)
        return enough(found, count, self.max_characters, "RecordQuestions")


def read_shots(benchmark: str, path: str | None) -> list[Question]:
    """The solved questions in a file of records; none without a file."""
    if path is None:
        return []
    files.check_paths([path], "shots")
    return list(_read(benchmark, [path]))


def _read(benchmark: str, paths: Sequence[str]) -> Iterator[Question]:
    lines = itertools.chain.from_iterable(map(files.records, paths))
    for number, (place, record) in enumerate(lines):
        try:
            yield formats.question(benchmark, record, number)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
