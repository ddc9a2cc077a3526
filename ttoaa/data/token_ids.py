"""A document that is token ids already, for sources whose vocabulary has made them."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class TokenIds:
    """Stands where a text would: it has a length and bytes. A tokenizer takes it as it is.

    It does so only if it is of that vocabulary; ids of another would be any text at all.
    """

    ids: np.ndarray
    """int32[n], without EOS."""
    vocabulary: str
    """sha256 of the tokenizer's file that the ids are of."""

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self) -> bytes:
        """As str.encode does, what a document is known by; no text has these bytes."""
        return b"\xff" + self.ids.astype("<i4").tobytes()
