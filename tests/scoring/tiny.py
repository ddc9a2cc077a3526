"""A small OLMo-2 with loud weights, requests of many lengths, and what float64 says of them."""

import jax
import numpy as np
from model import reference

from ttoaa.model.decoder import DecoderConfig, abstract_params

MODEL = DecoderConfig(vocab_size=42, layers=2, width=16, heads=4, hidden=24, kv_heads=2)
LENGTHS = (2, 3, 31, 32, 33, 64, 65, 20, 20, 50, 64, 80)
STARTS = (1, 2, 1, 31, 15, 63, 1, 19, 1, 7, 32, 40)


def params(model=MODEL):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (
            rng.normal(1, 0.5, leaf.shape).astype(np.float32)
            if leaf.ndim == 1
            else rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape).astype(np.float32)
        ),
        abstract_params(model),
    )


def requests():
    """One for each length, the start anywhere that is allowed, both ends among them."""
    rng = np.random.default_rng(1)
    return [
        (rng.integers(0, MODEL.vocab_size, n).astype(np.int32), start)
        for n, start in zip(LENGTHS, STARTS, strict=True)
    ]


def expected(params, request, offset=None):
    """(float64[n - start] log-probabilities, bool[n - start] whether the argmax is the token)"""
    tokens, start = request
    offset = None if offset is None else offset[None]
    logits = reference.logits(MODEL, params, tokens[None], offset)[0, start - 1 : -1]
    wanted = tokens[start:, None]
    log_z = np.log(np.exp(logits - logits.max()).sum(-1)) + logits.max()
    return np.take_along_axis(logits, wanted, 1)[:, 0] - log_z, logits.argmax(-1) == tokens[start:]


def same(one, other):
    return [np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True)]
