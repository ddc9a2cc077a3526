"""The OLMES formats as seqio Tasks over TFDS.

Only calling something here imports seqio, and with it TensorFlow. TFDS downloads a dataset where
it is first read. That is untested: tested are TFDS's own builders over local files in the form of
the originals.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.benchmarks import formats
from ttoaa.benchmarks.question import Question, enough, with_shots
from ttoaa.benchmarks.readers import read_shots
from ttoaa.data.sources.base import needs_package

TASKS: Mapping[str, str] = {
    name: f"olmes_rc_{name}" for name, entry in formats.BENCHMARKS.items() if entry.tfds
}
"""Names of the Tasks; the benchmarks that TFDS lacks (MMLU, Social IQa) have none."""


def register_tasks(
    benchmarks: Sequence[str] = tuple(TASKS),
    data_dir: str | None = None,
    shots: Mapping[str, Sequence[Question]] | None = None,
) -> list[str]:
    """Registers a seqio Task for each benchmark, in place of an earlier one; returns the names.

    An example is one choice: `inputs` and `targets` (texts: tokens are made of both at once, see
    `ttoaa.scoring.requests`), `question` and `benchmark` (texts), `option` and `label` (int32). The
    choices of a question follow each other. `shots` are solved questions of a benchmark.
    """
    for benchmark in benchmarks:
        _check(benchmark)
    with needs_package(f"The benchmark {', '.join(benchmarks)}"):
        import seqio
        import tensorflow as tf

    text = seqio.PassThroughVocabulary(1)
    features = {
        key: seqio.Feature(text, add_eos=False, dtype=tf.string, rank=0)
        for key in ("inputs", "targets")
    }
    for benchmark in benchmarks:
        name = TASKS[benchmark]
        if name in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(name)
        solved = tuple((shots or {}).get(benchmark, ()))
        seqio.TaskRegistry.add(
            name,
            source=seqio.TfdsDataSource(formats.BENCHMARKS[benchmark].tfds, data_dir),
            preprocessors=[_Choices(benchmark, solved)],
            output_features=features,
        )
    return [TASKS[benchmark] for benchmark in benchmarks]


def _check(benchmark: str) -> None:
    if formats.named(benchmark).tfds is None:
        raise ValueError(f"TFDS has no {benchmark}: read its JSON lines with RecordQuestions")


@dataclasses.dataclass(frozen=True)
class _Choices:
    """A preprocessor: records in, one example for each choice out."""

    benchmark: str
    shots: tuple[Question, ...]

    def __call__(self, dataset: Any) -> Any:
        import tensorflow as tf

        kinds = {
            "inputs": tf.string,
            "targets": tf.string,
            "question": tf.string,
            "benchmark": tf.string,
            "option": tf.int32,
            "label": tf.int32,
        }

        def choices(number: Any, record: Any) -> dict[str, Any]:
            def made(number: np.ndarray, *values: Any) -> list[np.ndarray]:
                packed = _plain(tf.nest.pack_sequence_as(record, values))
                return self._columns(formats.question(self.benchmark, packed, int(number)))

            inputs = [number, *tf.nest.flatten(record)]
            columns = tf.numpy_function(made, inputs, list(kinds.values()), stateful=False)
            return {
                key: tf.ensure_shape(column, [None])
                for key, column in zip(kinds, columns, strict=True)
            }

        return dataset.enumerate().map(choices).unbatch()

    def _columns(self, question: Question) -> list[np.ndarray]:
        question = with_shots(question, self.shots)
        n = len(question.continuations)
        texts = (question.contexts, question.continuations, [question.id] * n)
        numbers = (np.arange(n), np.full(n, question.label))
        return [
            *(np.array([t.encode() for t in column], object) for column in texts),
            np.array([question.benchmark.encode()] * n, object),
            *(column.astype(np.int32) for column in numbers),
        ]


def _plain(value: Any) -> Any:
    """Bytes as text, arrays as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _examples(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The examples as plain values. A preprocessor's ValueError is one again.

    TensorFlow makes an error of its own of it: the type's name, the message, a traceback.
    """
    import tensorflow as tf

    try:
        yield from map(_plain, dataset.as_numpy_iterator())
    except tf.errors.OpError as error:
        _, raised, text = error.message.partition("ValueError: ")
        if not raised:
            raise
        raise ValueError(text.splitlines()[0]) from error


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TaskQuestions:
    """The questions of one benchmark from its seqio Task, so from TFDS; imports TensorFlow.

    A question's id is the benchmark and its number in the split, in TFDS's order.
    """

    benchmark: str
    split: str | None = None
    """By default the one that OLMES reports."""
    data_dir: str | None = None
    """Of TFDS; by default where TFDS keeps its datasets."""
    shots: str | None = None
    """A file of records (JSON lines), solved before each question in that order."""
    max_characters: int | None = None
    """Only questions all of whose choices, with their shots, are at most this long."""

    def __post_init__(self) -> None:
        _check(self.benchmark)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        shots = {self.benchmark: read_shots(self.benchmark, self.shots)}
        (name,) = register_tasks([self.benchmark], self.data_dir, shots)
        import seqio

        split = self.split or formats.BENCHMARKS[self.benchmark].split
        task = seqio.TaskRegistry.get(name)
        examples = _examples(task.get_dataset(None, split, shuffle=False))
        return enough(self._grouped(examples), count, self.max_characters, "TaskQuestions")

    def _grouped(self, examples: Iterator[Mapping[str, Any]]) -> Iterator[Question]:
        unconditional = formats.BENCHMARKS[self.benchmark].unconditional
        for key, group in itertools.groupby(examples, key=lambda e: e["question"]):
            choices = list(group)
            yield Question(
                key,
                choices[0]["benchmark"],
                tuple(choice["inputs"] for choice in choices),
                tuple(choice["targets"] for choice in choices),
                choices[0]["label"],
                unconditional,
            )
