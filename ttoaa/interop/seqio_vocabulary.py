"""A corpus' tokenizer as a seqio vocabulary; imports seqio, and so TensorFlow."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from ttoaa.data.tokenizer import END_OF_TEXT, Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer


class TokenizerVocabulary(seqio.Vocabulary):
    """A `tokenizers` JSON file or a SentencePiece model, for any seqio Task.

    Its ids, EOS and size are those of a corpus with an `ExistingTokenizer` of the same arguments.
    Two are equal if their files have the same content. Pickled as its path.

    seqio's padding id, 0, is an ordinary token in most such files, so text is decoded up to the
    first EOS, and padding must follow one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        eos: str = END_OF_TEXT,
        vocab_size: int | None = None,
    ) -> None:
        """Takes the arguments of ExistingTokenizer; the file is opened on first use."""
        super().__init__(extra_ids=0)
        self.tokenizer_file = os.fspath(path)
        self._existing = ExistingTokenizer(self.tokenizer_file, eos, vocab_size)
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = self._existing.load(pathlib.Path(self.tokenizer_file))
        return self._tokenizer

    @property
    def bos_id(self) -> None:
        return None

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def unk_id(self) -> None:
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s).tolist()

    def _decode(self, ids: Iterable[int]) -> str:
        ids = list(ids)
        end = ids.index(self.eos_id) if self.eos_id in ids else len(ids)
        return self.tokenizer.decode(ids[:end])

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(
            self._encode_bytes, [tf.convert_to_tensor(s)], tf.int32, stateful=False
        )
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        texts = tf.numpy_function(self._decode_rows, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts

    def _encode_bytes(self, s: Any) -> np.ndarray:
        text: bytes = s if isinstance(s, bytes) else s.item()  # an array of one, run eagerly
        return self.tokenizer.encode(text.decode())

    def _decode_rows(self, ids: np.ndarray) -> Any:
        """Decode each row of int[..., n] to text, as bytes."""
        if ids.ndim == 1:
            return self._decode(ids.tolist()).encode()
        rows = [self._decode(row.tolist()).encode() for row in ids.reshape(-1, ids.shape[-1])]
        return np.array(rows, object).reshape(ids.shape[:-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenizerVocabulary):
            return False
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[str, int, int]:
        return self.tokenizer.fingerprint, self.tokenizer.eos_id, self.tokenizer.vocab_size

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}
