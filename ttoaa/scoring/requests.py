"""Texts to requests of the scoring primitives: where a continuation begins is decided in tokens.

A seam in characters is not always one in tokens. What is scored is always a tokenisation of the
whole text, as training saw it, never two tokenisations put together.
"""

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
