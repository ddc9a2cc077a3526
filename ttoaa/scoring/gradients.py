"""Gradients of a span's log-likelihood with respect to the input embeddings.

What the statistic of an embedding watermark compares with the noise that training added. A gradient
depends on its request alone, to the bit, as a score does (see `batches`); on a GPU to float
tolerance, as cuDNN's backward pass adds in an order of its own.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig, Params, features
from ttoaa.model.loss import token_losses
from ttoaa.model.sharding import constrain
from ttoaa.scoring.length_buckets import (
    PASSES,
    Pass,
    Passes,
    ahead,
    check,
    computed,
    packed,
    spans,
    windows,
)
from ttoaa.scoring.requests import Request

_HELD = 64


def embedding_gradients(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[np.ndarray]:
    """For each request, float32[n, D]: d(sum of log p(tokens[i]), i = start .. n - 1) / d(e).

    e are the embeddings that the first block takes, one for each token; that of the last token has
    no influence on the sum, and its gradient is 0. In nats; divide by n - start for the mean's.
    Raises ValueError for a request without context, without anything to score, or with a token
    that the model lacks.
    """
    check(requests, config.vocab_size)
    return list(stream_gradients(config, params, requests, passes))


def stream_gradients(
    config: DecoderConfig,
    params: Params,
    requests: Iterable[Request],
    passes: Passes = PASSES,
) -> Iterator[np.ndarray]:
    """The same one by one, in order; holds no more than 64 gradients, which are large."""
    number = 0
    for window in windows(requests, min(_HELD, passes.window)):
        check(window, config.vocab_size, number)
        number += len(window)
        yield from _window(config, params, window, passes)


def _window(
    config: DecoderConfig, params: Params, requests: Sequence[Request], passes: Passes
) -> list[np.ndarray]:
    found: dict[int, np.ndarray] = {}

    def run(one: Pass) -> jax.Array:
        arrays = one.tokens_RxL, one.first_R, one.wanted_RxS
        return _gradients(config, params, *arrays, *computed(config, one))

    for one, gradients_RxLxD in ahead(run, packed(requests, passes)):
        for row, number in enumerate(one.members):
            found[number] = gradients_RxLxD[row, : len(requests[number][0])].copy()
    return [found[number] for number in range(len(requests))]


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _gradients(
    config: DecoderConfig,
    params: Params,
    tokens_RxL: jax.Array,
    first_R: jax.Array,
    wanted_RxS: jax.Array,
    chunks: int,
    execution: Execution,
) -> jax.Array:
    """float32[R, L, D], whole on every device: rows do not meet, so one sum serves them all."""
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    span = wanted_RxS.shape[1]
    targets_RxS = spans(jnp.roll(tokens_RxL, -1, axis=1), first_R, span)

    def summed(offset_RxLxD: jax.Array) -> jax.Array:
        x_RxLxD = features(config, params, tokens_RxL, offset_RxLxD, execution=execution)
        x_RxSxD = spans(x_RxLxD, first_R, span)
        losses, _ = token_losses(x_RxSxD, params["head"], targets_RxS, chunks)
        return -jnp.where(wanted_RxS, losses, 0).sum()

    nothing = jnp.zeros((*tokens_RxL.shape, config.width), jnp.float32)
    return constrain(jax.grad(summed)(constrain(nothing, "batch", None, None)), None, None, None)
