"""Tokenizers: text to token ids and back, from a `tokenizers` JSON file or a SentencePiece model.

A block of reserved ids occurs in no text. Documents that are token ids already are `TokenIds`.
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import tokenizers


@dataclasses.dataclass(frozen=True, eq=False)
class TokenIds:
    """A document that a source gives as token ids; used where a text would be.

    A tokenizer returns the ids unchanged, and refuses those of another vocabulary.
    """

    ids: np.ndarray
    """int32[n], without EOS."""
    vocabulary: str
    """sha256 of the tokenizer file of these ids."""

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self) -> bytes:
        """Return the bytes that identify the document, as str.encode does; no text has them."""
        return b"\xff" + self.ids.astype("<i4").tobytes()


END_OF_TEXT = "<|endoftext|>"


class Encoder(Protocol):
    """What `Tokenizer` needs from a type of tokenizer file."""

    @property
    def size(self) -> int:
        """Return the largest id plus one."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text as int32[n], on all cores; nothing is added, special tokens are text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Decode ids below `size`."""
        ...

    def token_id(self, token: str) -> int | None:
        """Return the id of a token by name; None where it does not exist."""
        ...


def open_encoder(content: bytes) -> Encoder:
    """Open a tokenizer file by its content; raises some exception where it is neither type."""
    return JsonEncoder(content) if content.lstrip()[:1] == b"{" else SentencePieceEncoder(content)


class JsonEncoder:
    """A JSON file of Hugging Face's `tokenizers`."""

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
    """A SentencePiece model (Kudo & Richardson, 2018). Control symbols in text are encoded as text.

    Its normalisation may lose Unicode forms, repeated spaces and newlines (it does by default), and
    a character without a piece becomes `<unk>` unless the model falls back to bytes. docs/data.md
    lists which models keep every byte.
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
        """Return the id of a piece; the model's own EOS is also found as `<|endoftext|>`."""
        found = self._model.piece_to_id(token)
        if self._model.id_to_piece(found) == token:
            return found
        return self._model.eos_id() if token == END_OF_TEXT and self._model.eos_id() >= 0 else None


class Tokenizer:
    """A `tokenizers` JSON file or a SentencePiece model, by content. Pickled as its path.

    Text that looks like a special token is encoded as text, so the only EOS in a corpus are those
    that end its documents. `vocab_size` is the number of embedding rows; ids from the file's own
    size up to it are reserved, and nothing encodes to them. By default there are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        vocab_size: int | None = None,
        eos_id: int | None = None,
    ) -> None:
        """Raises ValueError for a file that is missing, invalid, too large, or without EOS."""
        self.path = pathlib.Path(path)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ValueError(f"cannot read the tokenizer {self.path}: {error.strerror}") from error
        try:
            self._encoder = open_encoder(content)
        except Exception as error:  # `tokenizers` raises a bare Exception for an invalid file
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{self.path} is not a readable tokenizer JSON or SentencePiece model: {reason}"
            ) from error
        self.fingerprint: str = hashlib.sha256(content).hexdigest()

        size = self._encoder.size
        self.vocab_size: int = size if vocab_size is None else vocab_size
        if self.vocab_size < size:
            raise ValueError(f"{self.path} has {size} ids; vocab_size {vocab_size} is too small")
        self.reserved_ids = range(size, self.vocab_size)
        eos = self.token_id(END_OF_TEXT) if eos_id is None else eos_id
        if not 0 <= eos < size:
            raise ValueError(f"{self.path}: EOS id {eos} is not one of its {size} ids")
        self.eos_id: int = eos

    def __reduce__(self) -> tuple[type, tuple[pathlib.Path, int, int]]:
        return Tokenizer, (self.path, self.vocab_size, self.eos_id)

    def token_id(self, token: str) -> int:
        """Return the id of a token by name, such as `<|endoftext|>`; ValueError for none."""
        found = self._encoder.token_id(token)
        if found is None:
            raise ValueError(f"{self.path} has no token {token!r}: name the token that ends a text")
        return found

    def encode(self, text: str) -> np.ndarray:
        """Encode a text as int32[n], without EOS."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode each text as int32[n], without EOS, on all cores.

        `TokenIds` of this vocabulary may be among the texts and are returned unchanged.
        """
        encoded = iter(self._encoder.encode_batch([t for t in texts if isinstance(t, str)]))
        return [next(encoded) if isinstance(t, str) else self._check_ids(t) for t in texts]

    def _check_ids(self, document: TokenIds) -> np.ndarray:
        """Return the ids of a document; ValueError where they are of another vocabulary."""
        if document.vocabulary != self.fingerprint:
            raise ValueError(
                f"the source gives token ids of another vocabulary than {self.path}: "
                f"set Prepare.tokenizer = @SeqioTokenizer(), or SeqioTask.use = 'text'"
            )
        return document.ids.astype(np.int32)

    def encode_pair(self, prefix: str, continuation: str) -> tuple[np.ndarray, int]:
        """Encode prefix + continuation as one string; also returns where the continuation starts.

        Encoded separately they would have a token boundary that training text need not have. A
        token that spans the boundary belongs to the continuation: the start is the length of the
        longest common prefix with the tokens of `prefix` alone.
        """
        if not continuation:
            raise ValueError(f"the continuation of {prefix[-40:]!r} is empty")
        tokens, head = self.encode_batch([prefix + continuation, prefix])
        n = min(len(tokens), len(head))
        differs = np.flatnonzero(tokens[:n] != head[:n])
        start = int(differs[0]) if len(differs) else n
        if start == len(tokens):
            raise ValueError(f"{continuation!r} after {prefix[-40:]!r} adds no token")
        return tokens, start

    def decode(self, ids: Iterable[int]) -> str:
        """Decode ids to text; EOS is shown as ⟨eos⟩ and reserved id number k as ⟨rk⟩."""
        pieces: list[str] = []
        run: list[int] = []

        def flush() -> None:
            pieces.append(self._encoder.decode(run))
            run.clear()

        for token in map(int, ids):
            if token == self.eos_id or token in self.reserved_ids:
                flush()
                number = token - self.reserved_ids.start
                pieces.append("⟨eos⟩" if token == self.eos_id else f"⟨r{number}⟩")
            elif 0 <= token < self.vocab_size:
                run.append(token)
            else:
                raise ValueError(f"token id {token} is outside the vocabulary of {self.vocab_size}")
        flush()
        return "".join(pieces)
