"""Texts to requests of the scoring primitives: where a continuation begins is decided in tokens.

A seam in characters is not always one in tokens. What is scored is always a tokenisation of the
whole text, as training saw it, never two tokenisations put together.

How to generate: how far, how greedily, from which random streams, and what ends it.
"""

import dataclasses
import hashlib
import math
import numbers
import operator

import gin
import numpy as np

from ttoaa.data.tokenizer import Tokenizer

Request = tuple[np.ndarray, int]
"""(tokens int[n], start): tokens[start:] are of interest, given all that stands before each."""


def encode_request(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """The request that scores `continuation` after `context`.

    As in lm-evaluation-harness (0.4.13), white space at the context's end is moved to the
    continuation, whose first word then has the space that its token has in a text, and an empty
    context is the EOS before a document. Unlike there, a token that spans the seam belongs to the
    continuation whole (`Tokenizer.encode_pair`), where the harness counts off the context's own
    tokens; the two are the same wherever the context's tokens are a prefix of those of the whole.

    Raises ValueError for a continuation that is empty or has no token of its own.
    """
    if not continuation:
        raise ValueError(f"the continuation of {context[-40:]!r} is empty")
    stripped = context.rstrip()
    tokens, start = tokenizer.encode_pair(stripped, context[len(stripped) :] + continuation)
    if start:
        return tokens, start
    return np.concatenate([np.array([tokenizer.eos_id], np.int32), tokens]), 1


_COLDEST = 1e-6


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to generate. Raises ValueError for a setting that has no meaning."""

    max_new_tokens: int
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token, the first of equals."""
    top_k: int | None = None
    """Draw from so many of the likeliest tokens, the first of equals."""
    top_p: float | None = None
    """Of these, draw from the likeliest that together reach this probability, in (0, 1]."""
    seed: int = 0
    stop: tuple[tuple[int, ...], ...] = ()
    """An item ends with the first of these that its new tokens complete, and includes it."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) and (name, value) != ("top_p", None):
                raise ValueError(f"Sampling.{name} must be a number, not {value!r}")
        if not _is_integer(self.max_new_tokens) or self.max_new_tokens < 1:
            raise ValueError("Sampling.max_new_tokens must be a positive integer")
        if self.temperature != 0 and not _COLDEST <= self.temperature < math.inf:
            raise ValueError(
                f"Sampling.temperature is 0 (greedy) or at least {_COLDEST}, not {self.temperature}"
            )
        if self.top_k is not None and (not _is_integer(self.top_k) or self.top_k < 1):
            raise ValueError(
                f"Sampling.top_k must be a positive integer or None, not {self.top_k!r}"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"Sampling.top_p must be in (0, 1] or None, not {self.top_p!r}")
        if not _is_integer(self.seed):
            raise ValueError(f"Sampling.seed must be an integer, not {self.seed!r}")
        stop = tuple(map(tuple, self.stop))
        if any(not s or not all(map(_is_integer, s)) or min(s) < 0 for s in stop):
            raise ValueError(
                "Sampling.stop must be sequences of token ids, none empty, none negative"
            )
        object.__setattr__(self, "stop", tuple(tuple(map(int, s)) for s in stop))


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def item_key(seed: int, key: int | str, tokens: np.ndarray) -> np.ndarray:
    """uint32[2]: the key of an item's random stream, of these three and nothing else.

    1 and "1" are two keys; a whole number is the same key in NumPy's types.
    """
    name = str(key) if isinstance(key, str) else operator.index(key)
    digest = hashlib.sha256(f"{seed}\x1f{name!r}\x1f".encode())
    digest.update(np.asarray(tokens, "<i4").tobytes())
    return np.frombuffer(digest.digest()[:8], "<u4").astype(np.uint32)
