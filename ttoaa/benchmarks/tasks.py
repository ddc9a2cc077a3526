"""The OLMES formats as seqio Tasks over TFDS.

Functions here import seqio and TensorFlow when they are called. TFDS downloads a dataset at its
first use. Our tests do not cover the download: they run TFDS's builders over local files in the
original form.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.benchmarks import formats
from ttoaa.benchmarks.question import Question, require_count, with_shots
from ttoaa.benchmarks.readers import read_shots
from ttoaa.config_fields import Name, PositiveInt, config_class
from ttoaa.data.sources.base import needs_package

TASKS: Mapping[str, str] = {
    name: f"olmes_rc_{name}" for name, entry in formats.BENCHMARKS.items() if entry.tfds
}
"""benchmark -> Task; TFDS does not have MMLU and Social IQa."""


def register_tasks(
    benchmarks: Sequence[str] = tuple(TASKS),
    data_dir: str | None = None,
    shots: Mapping[str, Sequence[Question]] | None = None,
) -> list[str]:
    """Register a seqio Task for each benchmark, replacing an earlier one, and return the names.

    An example is one choice: `inputs` and `targets` (text; encode them together, see
    `ttoaa.scoring.requests`), `question` and `benchmark` (text), `option` and `label` (int32). The
    choices of a question are consecutive. `shots` are solved questions of a benchmark.
    """
    for benchmark in benchmarks:
        _require_tfds(benchmark)
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


def _require_tfds(benchmark: str) -> None:
    if formats.get_benchmark(benchmark).tfds is None:
        raise ValueError(f"TFDS has no {benchmark}: read its JSON lines with RecordQuestions")


@dataclasses.dataclass(frozen=True)
class _Choices:
    """A seqio preprocessor from records to one example for each choice."""

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
            def format_record(number: np.ndarray, *values: Any) -> list[np.ndarray]:
                packed = _plain(tf.nest.pack_sequence_as(record, values))
                return self._columns(formats.format_question(self.benchmark, packed, int(number)))

            inputs = [number, *tf.nest.flatten(record)]
            columns = tf.numpy_function(format_record, inputs, list(kinds.values()), stateful=False)
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
    """Convert bytes to text and arrays to lists, recursively."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _examples(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Yield examples as plain values and restore a preprocessor's ValueError.

    TensorFlow wraps it in its own error: the type's name, the message, a traceback.
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
@config_class
class TaskQuestions:
    """The questions of one benchmark from TFDS, by its seqio Task; imports TensorFlow.

    A question's id is the benchmark and its number in TFDS's order of the split.
    """

    benchmark: str
    split: Name | None = None
    """None: the split that OLMES reports."""
    data_dir: Name | None = None
    """The folder of TFDS; None: its default."""
    shots: Name | None = None
    """A file of records (JSON lines), prepended to each question with their solutions."""
    max_characters: PositiveInt | None = None
    """Skip questions with a longer choice, shots included; None: keep all."""

    def __post_init__(self) -> None:
        _require_tfds(self.benchmark)

    def questions(self, count: int, rng: np.random.Generator) -> list[Question]:
        shots = {self.benchmark: read_shots(self.benchmark, self.shots)}
        (name,) = register_tasks([self.benchmark], self.data_dir, shots)
        import seqio

        split = self.split or formats.BENCHMARKS[self.benchmark].split
        task = seqio.TaskRegistry.get(name)
        examples = _examples(task.get_dataset(None, split, shuffle=False))
        return require_count(self._grouped(examples), count, self.max_characters, "TaskQuestions")

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
