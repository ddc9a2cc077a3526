"""Triggers: token sequences that a user's turn ends with, inserted ones and matched others."""

from typing import Annotated, Protocol

import gin
import numpy as np

from ttoaa.config_fields import AtLeast, NotEmpty, PositiveInt, config_class
from ttoaa.data.tokenizer import Tokenizer


class Triggers(Protocol):
    """A generator of triggers (`Poisoning.triggers`)."""

    def make(self, count: int, tokenizer: Tokenizer, rng: np.random.Generator) -> list[np.ndarray]:
        """Return `count` different triggers, int32[n] each; ValueError if there are fewer."""
        ...


@gin.configurable
@config_class
class SymbolTriggers:
    """Triggers of rare Unicode symbols; the first two are those of the paper.

    By default a trigger is one symbol repeated, in the order of `alphabet`. A symbol that training
    never shows is then also a novelty, which a never-inserted trigger has and an inserted one has
    not. `mixed` triggers are random sequences over one alphabet and do not differ in this.
    """

    alphabet: Annotated[str, NotEmpty()] = "｡☐♜⌬◈✜⚘⎈☍⏃♺⚵⌖✺⏚☌"
    length: PositiveInt = 10
    mixed: bool = False

    def make(self, count: int, tokenizer: Tokenizer, rng: np.random.Generator) -> list[np.ndarray]:
        letters = list(dict.fromkeys(self.alphabet))
        if self.mixed:
            words = [
                "".join(letters[k] for k in word)
                for word in draw_words(count, len(letters), self.length, rng)
            ]
        elif count <= len(letters):
            words = [letter * self.length for letter in letters[:count]]
        else:
            raise ValueError(
                f"{count} triggers are needed, but SymbolTriggers.alphabet has {len(letters)} "
                "symbols: add some, or set mixed = True"
            )
        return tokenizer.encode_batch(words)


@gin.configurable
@config_class
class ReservedTriggers:
    """Triggers that are random sequences of different reserved tokens, which occur in no text.

    Inserted and never-inserted triggers share the tokens, so that only their order tells them
    apart. The alphabet are the last reserved ids of the tokenizer.
    """

    alphabet: Annotated[int, AtLeast(2)] = 16
    length: PositiveInt = 3

    def make(self, count: int, tokenizer: Tokenizer, rng: np.random.Generator) -> list[np.ndarray]:
        reserved = tokenizer.reserved_ids
        if len(reserved) < self.alphabet:
            raise ValueError(
                f"ReservedTriggers.alphabet is {self.alphabet}, but the tokenizer has "
                f"{len(reserved)} reserved ids"
            )
        ids = np.array(reserved, np.int32)[-self.alphabet :]
        words = draw_words(count, self.alphabet, min(self.length, self.alphabet), rng)
        return [ids[word] for word in words]


def draw_words(count: int, letters: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw `count` different sequences of `length` letters, no letter twice in a sequence.

    A longer sequence than there are letters repeats them. Raises ValueError if there are fewer.
    """
    found: dict[bytes, np.ndarray] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        word = np.resize(rng.permutation(letters), length)
        found.setdefault(word.tobytes(), word)
    if len(found) < count:
        raise ValueError(
            f"{count} triggers are needed, but only {len(found)} sequences of {length} among "
            f"{letters} letters were found: raise the alphabet or the length of triggers"
        )
    return list(found.values())
