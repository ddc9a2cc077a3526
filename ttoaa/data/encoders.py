"""The two kinds of tokenizer file, opened by what is in them: `tokenizers` JSON, SentencePiece."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tokenizers

END_OF_TEXT = "<|endoftext|>"


class Encoder(Protocol):
    """What `Tokenizer` needs of a file."""

    @property
    def size(self) -> int:
        """One more than the largest id."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32[n] for each text, nothing added, special tokens in it being text; all cores."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Text of ids below `size`."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of a token by name."""
        ...


def open_encoder(content: bytes) -> Encoder:
    """Raises an exception of some kind for content that is neither."""
    return JsonEncoder(content) if content.lstrip()[:1] == b"{" else SentencePieceEncoder(content)


class JsonEncoder:
    """A file of Hugging Face's `tokenizers`."""

    def __init__(self, content: bytes) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_buffer(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self.size: int = max(self._tokenizer.get_vocab().values()) + 1

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)


class SentencePieceEncoder:
    """A SentencePiece model (Kudo & Richardson, 2018). Control symbols in text are text to it.

    What its normalisation takes from a text is lost: Unicode forms, repeated spaces, and newlines
    in models trained by default. A character that it has no piece for becomes `<unk>`, unless it
    falls back to bytes. docs/data.md says which models keep every byte.
    """

    def __init__(self, content: bytes) -> None:
        import sentencepiece

        if not content:
            raise ValueError("it is empty")
        self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
        self.size: int = self._model.vocab_size()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self._model.encode(list(texts), out_type=int, num_threads=-1)
        return [np.array(ids, np.int32) for ids in found]

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)

    def token_id(self, token: str) -> int | None:
        """The model's own EOS is also found as `<|endoftext|>`."""
        found = self._model.piece_to_id(token)
        if self._model.id_to_piece(found) == token:
            return found
        return self._model.eos_id() if token == END_OF_TEXT and self._model.eos_id() >= 0 else None
