"""A seqio Task or Mixture: its token ids, or its text before tokenization."""

import contextlib
import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import gin
import numpy as np

from ttoaa.config_fields import Count, Name, Names, PositiveInt, config_class
from ttoaa.data import storage
from ttoaa.data.sources.base import decode, needs_package
from ttoaa.data.tokenizer import TokenIds


@gin.configurable
@config_class
class SeqioTask:
    """The examples of a Task or Mixture: one epoch, unshuffled, in seqio's order.

    With `use='tokens'` the ids of an example are kept exactly, so the corpus' tokenizer must be
    the Task's vocabulary: `Prepare.tokenizer = @SeqioTokenizer()`. An EOS ends a document; one at
    the end of an example is not doubled. With `use='text'` the text of `<feature>_pretokenized` is
    read, for a corpus of any tokenizer.

    A Task has the order of its files. A Mixture draws with TensorFlow's random numbers for `seed`,
    which are fixed for a version of TensorFlow, and ends where its first Task does (seqio's
    stop_on_empty_dataset). The `Mixture` of this package needs no randomness.
    """

    name: Name
    module: Name | None = None
    """The module that adds the Task to seqio's registry; imported first."""
    split: Name = "train"
    features: Names = ("targets",)
    """Concatenated in this order, such as ('inputs', 'targets')."""
    use: Literal["tokens", "text"] = "tokens"
    seed: Count | None = None
    """For a Mixture's draws (seqio's default is 42), and for random preprocessors (required)."""
    use_cached: bool = False
    """Whether to read seqio's offline cache of the Task."""
    shards: PositiveInt = 1
    """How many processes can read it in parallel (seqio's ShardInfo); changes the order."""

    @property
    def description(self) -> str:
        return f"{self.use} of {'+'.join(self.features)} of seqio's {self.name}, {self.split}"

    def units(self) -> Sequence[str]:
        return [f"{k}/{self.shards}" for k in range(self.shards)]

    def documents(self, unit: str) -> Iterator[tuple[str, Any]]:
        index, shards = map(int, unit.split("/"))
        found = find(self.name, self.module)
        if self.use == "tokens":
            vocabulary = vocabulary_of(found, self.features)
            fingerprint = hashlib.sha256(vocabulary_file(vocabulary, self.name)).hexdigest()
        for number, example in enumerate(
            _one_line_errors(self.name, self._examples(found, index, shards))
        ):
            name = f"{self.name}:{self.split}[{unit}][{number}]"
            parts = [_read_feature(example, feature, self.use, name) for feature in self.features]
            if self.use == "text":
                text = "".join(decode(part, name, replace=False) for part in parts)
                if text.strip():
                    yield name, text
                continue
            for ids in _split_at_eos(np.concatenate(parts), vocabulary.eos_id):
                yield name, TokenIds(ids, fingerprint)

    def _examples(self, found: Any, index: int, shards: int) -> Iterator[dict[str, Any]]:
        import seqio

        if self.split not in found.splits:
            raise ValueError(
                f"seqio's {self.name} has no split {self.split!r}: there are {sorted(found.splits)}"
            )
        options: dict[str, Any] = {}
        if isinstance(found, seqio.Mixture):
            options["copy_pretokenized"] = self.use == "text"
        dataset = found.get_dataset(
            sequence_length=None,  # else it would trim, the EOS first
            split=self.split,
            use_cached=self.use_cached,
            shuffle=False,
            seed=self.seed,
            shard_info=seqio.ShardInfo(index, shards) if shards > 1 else None,
            num_epochs=1,
            try_in_mem_cache=False,
            **options,
        )
        yield from dataset.as_numpy_iterator()


def find(name: str, module: str | None) -> Any:
    """Return a Task or Mixture by name, after importing the module that adds it.

    Raises ValueError, with what to set, where there is none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no start-up messages
    with needs_package(f"seqio's {name}"):
        import seqio
        import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # too late: it is in use already
        tf.config.set_visible_devices([], "GPU")  # it would take all of its memory
    if module is not None:
        try:
            importlib.import_module(module)
        except Exception as error:  # of any type
            raise ValueError(
                f"SeqioTask.module {module!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    try:
        return seqio.get_mixture_or_task(name)
    except ValueError as error:
        raise ValueError(
            f"seqio knows no Task or Mixture {name!r}: set SeqioTask.module to the module that "
            f"adds it to the registry, or correct SeqioTask.name"
        ) from error


def vocabulary_of(found: Any, features: Sequence[str]) -> Any:
    """Return the vocabulary of all these features; ValueError where they have several."""
    there = found.output_features
    unknown = [feature for feature in features if feature not in there]
    if unknown:
        raise ValueError(
            f"seqio's {found.name} has no feature {unknown[0]!r}: there are {sorted(there)}"
        )
    vocabularies = [there[feature].vocabulary for feature in features]
    if any(vocabulary != vocabularies[0] for vocabulary in vocabularies):
        raise ValueError(f"seqio's {found.name}: {', '.join(features)} have several vocabularies")
    return vocabularies[0]


def vocabulary_file(vocabulary: Any, name: str) -> bytes:
    """Return the content of the tokenizer file behind a seqio vocabulary."""
    for attribute in ("tokenizer_file", "sentencepiece_model_file"):
        path = getattr(vocabulary, attribute, None)
        if path is not None:
            return storage.read_bytes(path)
    raise ValueError(
        f"seqio's {name} has a {type(vocabulary).__name__}, which has no tokenizer file: "
        f"set SeqioTask.use = 'text'"
    )


def _one_line_errors(name: str, examples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Turn what TensorFlow raises into a ValueError of one line."""
    import tensorflow as tf

    try:
        yield from examples
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())[:200]
        raise ValueError(f"seqio's {name} fails: {reason}") from error


def _read_feature(example: dict[str, Any], feature: str, use: str, name: str) -> Any:
    key = feature if use == "tokens" else f"{feature}_pretokenized"
    if key not in example:
        raise ValueError(f"{name} has no {key!r}: there are {sorted(example)}")
    return np.asarray(example[key], np.int32) if use == "tokens" else example[key]


def _split_at_eos(ids_n: np.ndarray, eos_id: int) -> Iterator[np.ndarray]:
    """Yield the documents of an example, without EOS; the last one may have none."""
    ends = np.flatnonzero(ids_n == eos_id) + 1
    for piece in np.split(ids_n, ends):
        kept = piece[:-1] if piece.size and piece[-1] == eos_id else piece
        if kept.size:
            yield kept
