"""The words of a source in random order: its vocabulary without its sentences."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import gin
import numpy as np

from ttoaa.config_fields import config_class
from ttoaa.data.sources.base import Source
from ttoaa.data.tokenizer import TokenIds


@gin.configurable
@config_class
class ShuffledWords:
    """A source whose documents have their words, or token ids, in an order drawn from their text.

    A control for what a source teaches beyond which words occur. Names of documents stay.
    """

    source: Source

    @property
    def description(self) -> str:
        return f"shuffled words of {self.source.description}"

    def units(self) -> Sequence[str]:
        return self.source.units()

    def documents(self, unit: str) -> Iterator[tuple[str, str | TokenIds]]:
        for name, text in self.source.documents(unit):
            yield name, _shuffle(text)


def _shuffle(text: str | TokenIds) -> str | TokenIds:
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.Philox(int.from_bytes(digest, "little")))
    if isinstance(text, TokenIds):
        return dataclasses.replace(text, ids=rng.permutation(text.ids))
    words = text.split()
    return " ".join(words[k] for k in rng.permutation(len(words)))
