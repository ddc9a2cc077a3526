"""The choice of a corpus' tokenizer: one trained on its text, or an existing file."""

import pathlib
import tempfile
from collections.abc import Iterable
from typing import Any, Protocol

import gin
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ttoaa.config_fields import Count, Name, Names, PositiveInt, Size, config_class
from ttoaa.data import storage
from ttoaa.data.sources.seqio_task import find, vocabulary_file, vocabulary_of
from ttoaa.data.tokenizer import END_OF_TEXT, TokenIds, Tokenizer

_ALPHABET = 256  # a byte-level BPE starts from all bytes
NO_BPE = (
    "a BPE cannot be trained on the token ids that the source gives: set Prepare.tokenizer = "
    "@SeqioTokenizer(), or SeqioTask.use = 'text'"
)


class Vocabulary(Protocol):
    """A frozen dataclass that makes the corpus' tokenizer.json."""

    @property
    def training_characters(self) -> int:
        """How many characters of the training documents `make` needs."""
        ...

    def check(self) -> int:
        """Return the number of embedding rows, before any text is read.

        Raises ValueError for settings that would fail in `make` or `load`.
        """
        ...

    def make(self, texts: Iterable[str | TokenIds]) -> bytes:
        """Return the content of tokenizer.json."""
        ...

    def load(self, path: pathlib.Path) -> Tokenizer:
        """Open that file, with its number of embedding rows and its EOS."""
        ...


@gin.configurable
@config_class
class TrainBPE:
    """Byte-level BPE (Radford et al., 2019), trained on a sample of the training documents.

    The ids are EOS, 256 bytes, merges; the last `reserved` of `vocab_size` occur in no text.
    """

    vocab_size: Size = 4096
    reserved: Count = 64
    training_characters: PositiveInt = 8_000_000

    def __post_init__(self) -> None:
        if self.vocab_size - self.reserved <= _ALPHABET:
            raise ValueError(
                f"TrainBPE.vocab_size must be above {_ALPHABET} bytes + {self.reserved} reserved "
                f"ids, not {self.vocab_size}"
            )

    def check(self) -> int:
        return self.vocab_size

    def make(self, texts: Iterable[str | TokenIds]) -> bytes:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size - self.reserved,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(_require_text, texts), trainer)
        return tokenizer.to_str(pretty=True).encode()

    def load(self, path: pathlib.Path) -> Tokenizer:
        return Tokenizer(path, self.vocab_size)


def _require_text(text: str | TokenIds) -> str:
    if isinstance(text, TokenIds):
        raise ValueError(NO_BPE)
    return text


@gin.configurable
@config_class
class ExistingTokenizer:
    """A `tokenizers` JSON file or a SentencePiece model, such as that of a released model.

    By default `vocab_size` is a multiple of 128 with at least 64 reserved ids, and a SentencePiece
    model keeps its own EOS.
    """

    path: Name
    """A path or a URL."""
    eos: Name = END_OF_TEXT
    vocab_size: Size | None = None

    @property
    def training_characters(self) -> int:
        return 0

    def check(self) -> int:
        with storage.local(self.path) as path:
            return self.load(path).vocab_size

    def make(self, texts: Iterable[str | TokenIds]) -> bytes:
        return storage.read_bytes(self.path)

    def load(self, path: pathlib.Path) -> Tokenizer:
        return open_padded(path, self.vocab_size, self.eos)


@gin.configurable
@config_class
class SeqioTokenizer:
    """The vocabulary of a seqio Task or Mixture whose token ids are the source's.

    It must have a tokenizer file, as seqio's SentencePieceVocabulary and the TokenizerVocabulary of
    ttoaa.interop.seqio_vocabulary do. `vocab_size` has the default of ExistingTokenizer; the ids
    that seqio adds to those of the file (`extra_ids`) are reserved, so no document may have them.
    """

    name: Name
    module: Name | None = None
    features: Names = ("targets",)
    vocab_size: Size | None = None

    @property
    def training_characters(self) -> int:
        return 0

    def check(self) -> int:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "tokenizer"
            path.write_bytes(self.make(()))
            return self.load(path).vocab_size

    def make(self, texts: Iterable[str | TokenIds]) -> bytes:
        return vocabulary_file(self._vocabulary(), self.name)

    def load(self, path: pathlib.Path) -> Tokenizer:
        return open_padded(path, self.vocab_size, int(self._vocabulary().eos_id))

    def _vocabulary(self) -> Any:
        return vocabulary_of(find(self.name, self.module), self.features)


def open_padded(path: pathlib.Path, vocab_size: int | None, eos: str | int) -> Tokenizer:
    """Open a file with an EOS by name or id; without a size, with at least 64 reserved ids."""
    bare = Tokenizer(path, eos_id=0)
    size = vocab_size or -(-(bare.vocab_size + 64) // 128) * 128
    return Tokenizer(path, size, bare.token_id(eos) if isinstance(eos, str) else eos)
