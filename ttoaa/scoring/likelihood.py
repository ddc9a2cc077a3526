"""Log-likelihood of tokens under a checkpoint: the first of the scoring primitives (C10).

A score depends on its request alone, to the bit: not on order, neighbours or how many there are
(see `batches`). Softmax is in float32. A request is in tokens: (tokens, start) asks for
tokens[start:] given what stands before each, so that prompt and continuation meet where
`start` says and nowhere else; `requests.encode_request` makes one of two texts.

Log-probabilities beside what the model itself would expect of them: what Min-K%++ needs.

Independent of order, neighbours and number of the requests, to the bit, as in `likelihood`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import DecoderConfig, Params, features
from ttoaa.model.sharding import constrain
from ttoaa.scoring.length_buckets import (
    PASSES,
    Pass,
    Passes,
    ahead,
    check,
    computed,
    execution_of,
    head_chunks,
    packed,
    pass_rows,
    spans,
    windows,
)
from ttoaa.scoring.requests import Request


class Scored(NamedTuple):
    """Of tokens[start:], each given all before it."""

    log_probs: np.ndarray
    """float32[n - start], in nats."""
    greedy: np.ndarray
    """bool[n - start]: is it the likeliest token, the first of them where they tie?"""


class Lowered(NamedTuple):
    """A program for devices that need not be there, and what it is of."""

    program: jax.stages.Lowered
    rows: int
    execution: Execution


@functools.partial(jax.jit, static_argnums=0, static_argnames=("rows", "execution"))
def token_log_probs(
    config: DecoderConfig,
    params: Params,
    tokens_NxL: jax.Array,
    *,
    rows: int,
    execution: Execution = PLAIN,
) -> jax.Array:
    """float32[N, L - 1]: log p(tokens[:, i + 1] | tokens[:, :i + 1]), `rows` rows a pass.

    Over the mesh in context, if there is one; the result is whole on every device.
    """

    def one(tokens_RxL: jax.Array) -> jax.Array:
        tokens_RxL = constrain(tokens_RxL, "batch", None)
        x_RxLxD = features(config, params, tokens_RxL, execution=execution)
        targets_RxL = jnp.roll(tokens_RxL, -1, axis=1)
        return _read(x_RxLxD, params["head"], targets_RxL, execution.loss_chunks)[0][:, :-1]

    N, L = tokens_NxL.shape
    scores = jax.lax.map(one, tokens_NxL.reshape(-1, rows, L)).reshape(N, L - 1)
    return constrain(scores, None, None)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _score(
    config: DecoderConfig,
    params: Params,
    tokens_RxL: jax.Array,
    first_R: jax.Array,
    span: int,
    chunks: int,
    execution: Execution,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities and greediness of the tokens after positions first .. first + span - 1."""
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    x_RxLxD = features(config, params, tokens_RxL, execution=execution)
    targets_RxS = spans(jnp.roll(tokens_RxL, -1, axis=1), first_R, span)
    read = _read(spans(x_RxLxD, first_R, span), params["head"], targets_RxS, chunks)
    log_probs_RxS, greedy_RxS = (constrain(each, None, None) for each in read)
    return log_probs_RxS, greedy_RxS


def _read(
    x_BxSxD: jax.Array, head_DxV: jax.Array, targets_BxS: jax.Array, chunks: int
) -> tuple[jax.Array, jax.Array]:
    """(float32[B, S] log-probabilities of the targets, bool[B, S] whether the argmax is it)."""
    head = constrain(head_DxV.astype(x_BxSxD.dtype), None, "vocab")

    def piece(x_BxNxD: jax.Array, targets_BxN: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = constrain(x_BxNxD @ head, "batch", None, "vocab").astype(jnp.float32)
        ids = jax.lax.broadcasted_iota(targets_BxN.dtype, logits.shape, 2)
        wanted = targets_BxN[..., None]
        # A sum and not a look-up: a vocabulary sharded over devices would be gathered for that.
        target = jnp.where(ids == wanted, logits, 0).sum(axis=-1, keepdims=True)
        beaten = (logits > target) | ((logits == target) & (ids < wanted))
        log_probs = target[..., 0] - jax.nn.logsumexp(logits, axis=-1)
        return log_probs, ~beaten.any(axis=-1)

    if chunks == 1:
        return piece(x_BxSxD, targets_BxS)
    B, S, D = x_BxSxD.shape
    if S % chunks:
        raise ValueError(f"loss_chunks must divide the {S} positions of a row, not be {chunks}")
    x_CxBxNxD = x_BxSxD.reshape(B, chunks, S // chunks, D).swapaxes(0, 1)
    targets_CxBxN = targets_BxS.reshape(B, chunks, S // chunks).swapaxes(0, 1)
    read = jax.lax.map(lambda each: piece(*each), (x_CxBxNxD, targets_CxBxN))
    log_probs, greedy = (each.swapaxes(0, 1).reshape(B, S) for each in read)
    return log_probs, greedy


def row_losses(
    config: DecoderConfig,
    params: Params,
    tokens_NxL: np.ndarray,
    execution: Execution = PLAIN,
) -> np.ndarray:
    """float32[N]: the mean loss of each row's L - 1 targets, in nats.

    In as many chunks as `execution` says, or more: no more logits at a time than `head_chunks`.
    """
    length = tokens_NxL.shape[1]
    rows = pass_rows(length)
    chunks = max(execution.loss_chunks, head_chunks(rows, length, config.vocab_size))
    execution = dataclasses.replace(execution, loss_chunks=chunks)
    missing = -len(tokens_NxL) % rows
    padded = np.pad(np.asarray(tokens_NxL, np.int32), ((0, missing), (0, 0)))
    scores = token_log_probs(config, params, padded, rows=rows, execution=execution)
    return -np.asarray(scores).mean(axis=1)[: len(tokens_NxL)]


def stream(
    config: DecoderConfig,
    params: Params,
    requests: Iterable[Request],
    passes: Passes = PASSES,
) -> Iterator[Scored]:
    """Of each request, in order; holds no more than `passes.window` of them at a time.

    Raises ValueError for a request without context, without anything to score, or with a token
    that the model lacks.
    """
    number = 0
    for window in windows(requests, passes.window):
        check(window, config.vocab_size, number)
        number += len(window)
        yield from _window(config, params, window, passes)


def score(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[Scored]:
    """As `stream`, but checks every request before it scores the first."""
    check(requests, config.vocab_size)
    return list(stream(config, params, requests, passes))


def log_likelihoods(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[np.ndarray]:
    """For each request, float32[n - start]: log p(tokens[i] | tokens[:i]) for i = start .. n - 1.

    Raises ValueError as `score` does.
    """
    return [scored.log_probs for scored in score(config, params, requests, passes)]


def lowered(config: DecoderConfig, params: Params, length: int, platform: str) -> Lowered:
    """A pass of `stream` over rows of that length, scored whole, on the mesh in context.

    Its devices need not be there.
    """
    rows = pass_rows(length, platform)
    tokens_RxL = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    first_R = jax.ShapeDtypeStruct((rows,), jnp.int32)
    chunks = head_chunks(rows, length, config.vocab_size)
    execution = execution_of(config, length, platform)
    made = _score.lower(config, params, tokens_RxL, first_R, length, chunks, execution)
    return Lowered(made, rows, execution)


def _window(
    config: DecoderConfig, params: Params, requests: Sequence[Request], passes: Passes
) -> list[Scored]:
    found: dict[int, Scored] = {}

    def run(one: Pass) -> tuple[jax.Array, jax.Array]:
        span, how = one.wanted_RxS.shape[1], computed(config, one)
        return _score(config, params, one.tokens_RxL, one.first_R, span, *how)

    for one, (log_probs_RxS, greedy_RxS) in ahead(run, packed(requests, passes)):
        for row, number in enumerate(one.members):
            wanted = one.wanted_RxS[row]
            found[number] = Scored(log_probs_RxS[row, wanted], greedy_RxS[row, wanted])
    return [found[number] for number in range(len(requests))]


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
