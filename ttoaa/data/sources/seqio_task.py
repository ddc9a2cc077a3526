"""A seqio Task or Mixture: the tokens that it makes, or the text before it is tokenised."""

import contextlib
import dataclasses
import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import gin
import numpy as np

from ttoaa.data import storage
from ttoaa.data.sources import readers
from ttoaa.data.sources.base import needs_package
from ttoaa.data.tokenizer import TokenIds


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SeqioTask:
    """The examples of a Task or Mixture, one epoch, unshuffled, in the order that seqio gives.

    With `use='tokens'` an example's ids are kept exactly, whatever preprocessing made them, so the
    corpus' tokenizer must be the Task's vocabulary: `Prepare.tokenizer = @SeqioTokenizer()`. An
    EOS ends a document; one at the end of an example is not doubled. With `use='text'` it is the
    text of `<feature>_pretokenized`, for a corpus of any tokenizer.

    A Task's order is that of its files. A Mixture draws by TensorFlow's random numbers of `seed`,
    which fixes them for a version of TensorFlow; it ends where its first Task does (seqio's
    stop_on_empty_dataset). `ttoaa`'s own `Mixture` needs no randomness.
    """

    name: str
    module: str | None = None
    """Imported first: where the Task is added to seqio's registry."""
    split: str = "train"
    features: Sequence[str] = ("targets",)
    """Joined in this order: ('inputs', 'targets') for tasks that have both."""
    use: Literal["tokens", "text"] = "tokens"
    seed: int | None = None
    """Of a Mixture's draws (seqio's own is 42) and of random preprocessors, which must have one."""
    use_cached: bool = False
    """seqio's own offline cache of the Task."""
    shards: int = 1
    """How many processes can read it at once (seqio's ShardInfo). The order depends on it."""

    def __post_init__(self) -> None:
        if isinstance(self.features, str) or not self.features:
            raise ValueError(f"SeqioTask.features must be a list, not {self.features!r}")
        if self.use not in ("tokens", "text"):
            raise ValueError(f"SeqioTask.use must be 'tokens' or 'text', not {self.use!r}")
        if self.shards < 1:
            raise ValueError("SeqioTask.shards must be at least 1")

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
        for number, example in enumerate(_told(self.name, self._examples(found, index, shards))):
            name = f"{self.name}:{self.split}[{unit}][{number}]"
            parts = [_part(example, feature, self.use, name) for feature in self.features]
            if self.use == "text":
                text = "".join(readers.decoded(part, name, replace=False) for part in parts)
                if text.strip():
                    yield name, text
                continue
            for ids in _documents(np.concatenate(parts), vocabulary.eos_id):
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
    """The Task or Mixture of that name, after importing the module that may add it.

    Raises ValueError, saying what to set, where there is none.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's start-up notes
    with needs_package(f"seqio's {name}"):
        import seqio
        import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # too late: someone uses it already
        tf.config.set_visible_devices([], "GPU")  # it would take all of the memory
    if module is not None:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever that module raises
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
    """The one vocabulary that all these features have."""
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
    """The content of the tokenizer file that a seqio vocabulary is made of."""
    for attribute in ("tokenizer_file", "sentencepiece_model_file"):
        path = getattr(vocabulary, attribute, None)
        if path is not None:
            return storage.read_bytes(path)
    raise ValueError(
        f"seqio's {name} has a {type(vocabulary).__name__}, which is of no tokenizer file: "
        f"set SeqioTask.use = 'text'"
    )


def _told(name: str, examples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What TensorFlow raises, as one line."""
    import tensorflow as tf

    try:
        yield from examples
    except tf.errors.OpError as error:
        reason = " ".join(str(error.message).split())[:200]
        raise ValueError(f"seqio's {name} fails: {reason}") from error


def _part(example: dict[str, Any], feature: str, use: str, name: str) -> Any:
    key = feature if use == "tokens" else f"{feature}_pretokenized"
    if key not in example:
        raise ValueError(f"{name} has no {key!r}: there are {sorted(example)}")
    return np.asarray(example[key], np.int32) if use == "tokens" else example[key]


def _documents(ids_n: np.ndarray, eos_id: int) -> Iterator[np.ndarray]:
    """Those parts of an example that EOS ends; a last one may do without."""
    ends = np.flatnonzero(ids_n == eos_id) + 1
    for piece in np.split(ids_n, ends):
        kept = piece[:-1] if piece.size and piece[-1] == eos_id else piece
        if kept.size:
            yield kept
