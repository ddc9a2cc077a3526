"""Gradients of a span's log-likelihood with respect to the input embeddings (contract C10).

The statistic of an embedding watermark compares them with the noise that training added. A gradient
depends on its request alone, to the bit (see `length_buckets`); on a GPU only to float tolerance,
because cuDNN's backward pass does not fix its order of summation.
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
    check_requests,
    in_windows,
    pass_options,
    run_requests,
    slice_spans,
)
from ttoaa.scoring.requests import Request

_HELD = 64


def embedding_gradients(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[np.ndarray]:
    """Return for each request float32[n, D]: d(sum of log p(tokens[i]), i = start .. n - 1) / d(e).

    e are the input embeddings of the first block, one for each token; the last token does not
    influence the sum, so its gradient is 0. In nats; divide by n - start for the mean.
    Raises ValueError for an invalid request (see `check_requests`).
    """
    check_requests(requests, config.vocab_size)
    return list(stream_gradients(config, params, requests, passes))


def stream_gradients(
    config: DecoderConfig,
    params: Params,
    requests: Iterable[Request],
    passes: Passes = PASSES,
) -> Iterator[np.ndarray]:
    """Yield the same one by one, in order; holds at most 64 gradients in memory."""
    for window in in_windows(requests, min(_HELD, passes.window), config.vocab_size):
        yield from _window_gradients(config, params, window, passes)


def _window_gradients(
    config: DecoderConfig, params: Params, requests: Sequence[Request], passes: Passes
) -> list[np.ndarray]:
    def run(one: Pass) -> jax.Array:
        arrays = one.tokens_RxL, one.first_R, one.wanted_RxS
        return _gradients(config, params, *arrays, *pass_options(config, one))

    def take(one: Pass, row: int, gradients_RxLxD: np.ndarray) -> np.ndarray:
        tokens, _ = requests[one.members[row]]
        return gradients_RxLxD[row, : len(tokens)].copy()

    return run_requests(run, requests, passes, take)


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
    """Return float32[R, L, D], replicated: rows do not interact, so one sum serves all."""
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    span = wanted_RxS.shape[1]
    targets_RxS = slice_spans(jnp.roll(tokens_RxL, -1, axis=1), first_R, span)

    def summed(offset_RxLxD: jax.Array) -> jax.Array:
        x_RxLxD = features(config, params, tokens_RxL, offset_RxLxD, execution=execution)
        x_RxSxD = slice_spans(x_RxLxD, first_R, span)
        losses, _ = token_losses(x_RxSxD, params["head"], targets_RxS, chunks)
        return -jnp.where(wanted_RxS, losses, 0).sum()

    nothing = jnp.zeros((*tokens_RxL.shape, config.width), jnp.float32)
    return constrain(jax.grad(summed)(constrain(nothing, "batch", None, None)), None, None, None)
