"""Text to token ids and back, with a block of reserved ids that no text ever has."""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from ttoaa.data.encoders import END_OF_TEXT, open_encoder
from ttoaa.data.token_ids import TokenIds

__all__ = ["END_OF_TEXT", "Tokenizer"]


class Tokenizer:
    """A `tokenizers` JSON file or a SentencePiece model, told apart by content. Pickled by path.

    Text that looks like a special token is encoded as the text that it is, so the only EOS in a
    corpus are those that end its documents.

    `vocab_size` is the number of embedding rows. The ids from the file's own size up to it are
    reserved: nothing encodes to them. By default there are none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        vocab_size: int | None = None,
        eos_id: int | None = None,
    ) -> None:
        """Raises ValueError for a file that is missing, no tokenizer, larger, or without EOS."""
        self.path = pathlib.Path(path)
        try:
            content = self.path.read_bytes()
            self._encoder = open_encoder(content)
        except Exception as error:  # `tokenizers` raises bare Exception for a bad file
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
        """The id of a token by name, such as `<|endoftext|>`; ValueError where there is none."""
        found = self._encoder.token_id(token)
        if found is None:
            raise ValueError(f"{self.path} has no token {token!r}: name the one that ends a text")
        return found

    def encode(self, text: str) -> np.ndarray:
        """int32[n], without EOS."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32[n] for each text, without EOS, on all cores.

        `TokenIds` of this vocabulary may stand among the texts, and pass as they are.
        """
        encoded = iter(self._encoder.encode_batch([t for t in texts if isinstance(t, str)]))
        return [next(encoded) if isinstance(t, str) else self._taken(t) for t in texts]

    def _taken(self, document: TokenIds) -> np.ndarray:
        """Raises ValueError for ids of another vocabulary."""
        if document.vocabulary != self.fingerprint:
            raise ValueError(
                f"the source gives token ids of another vocabulary than {self.path}: "
                f"set Prepare.tokenizer = @SeqioTokenizer(), or SeqioTask.use = 'text'"
            )
        return document.ids.astype(np.int32)

    def encode_pair(self, prefix: str, continuation: str) -> tuple[np.ndarray, int]:
        """Tokens of prefix + continuation as one string, and where the continuation starts.

        Encoded apart, the two would meet at a seam that training text does not have. Where a
        token spans the seam it belongs to the continuation: the start is the length of the
        longest common prefix with the tokens of `prefix` alone.
        """
        if not continuation:
            raise ValueError(f"the continuation of {prefix[-40:]!r} is empty")
        tokens, head = self.encode_batch([prefix + continuation, prefix])
        n = min(len(tokens), len(head))
        differs = np.flatnonzero(tokens[:n] != head[:n])
        start = int(differs[0]) if len(differs) else n
        if start == len(tokens):
            raise ValueError(f"{continuation!r} after {prefix[-40:]!r} has no token of its own")
        return tokens, start

    def decode(self, ids: Iterable[int]) -> str:
        """Text; EOS is shown as ⟨eos⟩ and reserved id number k as ⟨rk⟩."""
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
