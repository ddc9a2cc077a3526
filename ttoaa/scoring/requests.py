"""The inputs of the scoring primitives: requests for log-likelihoods, and how to generate.

A request tokenises the whole text, as training does, and then finds the token at which the
continuation starts; it never joins two tokenisations.
"""

import hashlib
import operator
from collections.abc import Iterable
from typing import Annotated

import gin
import numpy as np

from ttoaa.config_fields import (
    AtLeast,
    AtMost,
    Count,
    NotEmpty,
    PositiveInt,
    PositiveShare,
    config_class,
)
from ttoaa.data.tokenizer import Tokenizer

Request = tuple[np.ndarray, int]
"""(tokens int[n], start): asks for tokens[start:], each given all tokens before it."""


def encode_request(tokenizer: Tokenizer, context: str, continuation: str) -> Request:
    """Return the request that scores `continuation` after `context`.

    As in lm-evaluation-harness (0.4.13), white space at the end of the context moves to the
    continuation, and an empty context becomes the EOS before a document. Unlike the harness, a
    token that crosses the boundary belongs to the continuation (`Tokenizer.encode_pair`); both
    agree if the context's tokens are a prefix of the tokens of the whole.

    Raises ValueError for a continuation that is empty or has no token of its own.
    """
    if not continuation:
        raise ValueError(f"the continuation of {context[-40:]!r} is empty")
    stripped = context.rstrip()
    tokens, start = tokenizer.encode_pair(stripped, context[len(stripped) :] + continuation)
    if start:
        return tokens, start
    return np.concatenate([np.array([tokenizer.eos_id], np.int32), tokens]), 1


def sum_log_probs(log_probs: Iterable[np.ndarray]) -> list[float]:
    """Return the log-likelihood of each request from those of its tokens, added in float64."""
    return [float(np.sum(each, dtype=float)) for each in log_probs]


_COLDEST = 1e-6


@gin.configurable
@config_class
class Sampling:
    """How to generate; ValueError for invalid settings."""

    max_new_tokens: PositiveInt
    temperature: Annotated[float, AtLeast(0), AtMost(1e6)] = 0.0
    """Divides the logits; 0 takes the argmax, the first one in a tie."""
    top_k: PositiveInt | None = None
    """Draw from this many of the likeliest tokens; None: from all."""
    top_p: PositiveShare | None = None
    """Draw from the likeliest of these that together reach this probability, in (0, 1]."""
    seed: int = 0
    stop: tuple[Annotated[tuple[Count, ...], NotEmpty()], ...] = ()
    """Stop sequences: a result ends with the first that it completes, inclusive."""

    def __post_init__(self) -> None:
        if 0 < self.temperature < _COLDEST:
            raise ValueError(
                f"Sampling.temperature must be 0 (greedy) or at least {_COLDEST}, "
                f"not {self.temperature}"
            )
        object.__setattr__(self, "stop", tuple(tuple(map(int, s)) for s in self.stop))


def item_key(seed: int, key: int | str, tokens: np.ndarray) -> np.ndarray:
    """Return uint32[2]: the key of an item's random stream, from these three arguments alone.

    1 and "1" are different keys; a NumPy integer is the same key as the Python integer.
    """
    name = str(key) if isinstance(key, str) else operator.index(key)
    digest = hashlib.sha256(f"{seed}\x1f{name!r}\x1f".encode())
    digest.update(np.asarray(tokens, "<i4").tobytes())
    return np.frombuffer(digest.digest()[:8], "<u4").astype(np.uint32)
