"""Log-probabilities beside what the model itself would expect of them: what Min-K%++ needs.

Independent of order, neighbours and number of the requests, to the bit, as in `likelihood`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttoaa.model.decoder import DecoderConfig, Params, features
from ttoaa.model.execution import Execution
from ttoaa.model.sharding import constrain
from ttoaa.scoring.batches import PASSES, Pass, Passes, ahead, check, computed, packed, spans
from ttoaa.scoring.requests import Request


class Moments(NamedTuple):
    """Of tokens[start:], each given all before it; float32[n - start], in nats."""

    log_probs: np.ndarray
    means: np.ndarray
    """Of the log-probability of a token drawn from the model: minus the entropy."""
    stds: np.ndarray
    """Of the same."""


def vocabulary_moments(
    config: DecoderConfig, params: Params, requests: Sequence[Request], passes: Passes = PASSES
) -> list[Moments]:
    """The moments of each request, in order.

    Raises ValueError for a request without context, without anything to score, or with a token
    that the model lacks.
    """
    check(requests, config.vocab_size)
    found: dict[int, Moments] = {}

    def run(one: Pass) -> tuple[jax.Array, ...]:
        span, how = one.wanted_RxS.shape[1], computed(config, one)
        return _moments(config, params, one.tokens_RxL, one.first_R, span, *how)

    for one, moments in ahead(run, packed(requests, passes)):
        for row, number in enumerate(one.members):
            found[number] = Moments(*(each[row, one.wanted_RxS[row]] for each in moments))
    return [found[number] for number in range(len(requests))]


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _moments(
    config: DecoderConfig,
    params: Params,
    tokens_RxL: jax.Array,
    first_R: jax.Array,
    span: int,
    chunks: int,
    execution: Execution,
) -> tuple[jax.Array, ...]:
    """Three of float32[R, span], for the tokens after positions first .. first + span - 1.

    The span goes in so many chunks, of which one has logits at a time. Over the mesh in context, if
    there is one; the results are whole on every device.
    """
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    x_RxLxD = features(config, params, tokens_RxL, execution=execution)
    head = constrain(params["head"].astype(x_RxLxD.dtype), None, "vocab")

    def cut(array_RxLx_: jax.Array) -> jax.Array:
        """[chunks, R, span / chunks, ...]"""
        taken = spans(array_RxLx_, first_R, span)
        pieces = taken.reshape(len(taken), chunks, span // chunks, *taken.shape[2:])
        return pieces.swapaxes(0, 1)

    def piece(each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        x_RxNxD, targets_RxN = each
        logits = constrain(x_RxNxD @ head, "batch", None, "vocab").astype(jnp.float32)
        log_p = jax.nn.log_softmax(logits)
        p = jnp.exp(log_p)
        # A sum and not a look-up: a vocabulary sharded over devices would be gathered for that.
        ids = jax.lax.broadcasted_iota(targets_RxN.dtype, logits.shape, 2)
        target_RxN = jnp.where(ids == targets_RxN[..., None], log_p, 0).sum(-1)
        mean_RxN = (p * log_p).sum(-1)
        # About the mean: a difference of squares would lose a small spread to rounding.
        variance_RxN = (p * (log_p - mean_RxN[..., None]) ** 2).sum(-1)
        return target_RxN, mean_RxN, jnp.sqrt(variance_RxN)

    pieces = jax.lax.map(piece, (cut(x_RxLxD), cut(jnp.roll(tokens_RxL, -1, axis=1))))
    whole = (each.swapaxes(0, 1).reshape(len(tokens_RxL), span) for each in pieces)
    return tuple(constrain(each, None, None) for each in whole)
