"""Log-likelihoods of tokens under a checkpoint, and moments over the vocabulary (contract C10).

A request (tokens, start) asks for tokens[start:], each given all tokens before it;
`requests.encode_request` makes one from two texts. A result depends on its request alone, to the
bit (see `length_buckets`). Softmax is in float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

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
    check_requests,
    execution_of,
    head_chunks,
    in_windows,
    pass_options,
    pass_rows,
    run_requests,
    slice_spans,
)
from ttoaa.scoring.requests import Request


class Scored(NamedTuple):
    """The result for tokens[start:], each given all tokens before it."""

    log_probs: np.ndarray
    """float32[n - start], in nats."""
    greedy: np.ndarray
    """bool[n - start]: whether the token is the argmax; the first one counts in a tie."""


class Lowered(NamedTuple):
    """A program lowered ahead of time, with its rows and execution."""

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
    """Return float32[N, L - 1]: log p(tokens[:, i + 1] | tokens[:, :i + 1]), `rows` rows per pass.

    Uses the mesh in context, if any; the result is replicated.
    """

    def one(tokens_RxL: jax.Array) -> jax.Array:
        tokens_RxL = constrain(tokens_RxL, "batch", None)
        x_RxLxD = features(config, params, tokens_RxL, execution=execution)
        targets_RxL = jnp.roll(tokens_RxL, -1, axis=1)
        return _target_log_probs(x_RxLxD, params["head"], targets_RxL, execution.loss_chunks)[0][
            :, :-1
        ]

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
    """Return log-probabilities and argmax matches of the tokens after first .. first + span - 1."""
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    x_RxLxD = features(config, params, tokens_RxL, execution=execution)
    targets_RxS = slice_spans(jnp.roll(tokens_RxL, -1, axis=1), first_R, span)
    read = _target_log_probs(
        slice_spans(x_RxLxD, first_R, span), params["head"], targets_RxS, chunks
    )
    log_probs_RxS, greedy_RxS = (constrain(each, None, None) for each in read)
    return log_probs_RxS, greedy_RxS


def _target_log_probs(
    x_BxSxD: jax.Array, head_DxV: jax.Array, targets_BxS: jax.Array, chunks: int
) -> tuple[jax.Array, jax.Array]:
    """Return the targets' log-probabilities, float32[B, S], and whether they are the argmax."""
    head = constrain(head_DxV.astype(x_BxSxD.dtype), None, "vocab")

    def piece(x_BxNxD: jax.Array, targets_BxN: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = constrain(x_BxNxD @ head, "batch", None, "vocab").astype(jnp.float32)
        ids = jax.lax.broadcasted_iota(targets_BxN.dtype, logits.shape, 2)
        wanted = targets_BxN[..., None]
        # A sum instead of a gather: a gather would collect a sharded vocabulary on every device.
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
    """Return float32[N]: the mean loss of the L - 1 targets of each row, in nats.

    Uses at least the chunks of `execution`, and more if the logits need them (`head_chunks`).
    """
    length = tokens_NxL.shape[1]
    rows = pass_rows(length)
    chunks = max(execution.loss_chunks, head_chunks(rows, length, config.vocab_size))
    execution = dataclasses.replace(execution, loss_chunks=chunks)
    missing = -len(tokens_NxL) % rows
    padded = np.pad(np.asarray(tokens_NxL, np.int32), ((0, missing), (0, 0)))
    scores = token_log_probs(config, params, padded, rows=rows, execution=execution)
    return -np.asarray(scores).mean(axis=1)[: len(tokens_NxL)]


def stream_scores(
    config: DecoderConfig,
    params: Params,
    requests: Iterable[Request],
    passes: Passes = PASSES,
) -> Iterator[Scored]:
    """Yield the scores in the order of the requests, holding `passes.window` of them at a time.

    Raises ValueError for an invalid request (see `check_requests`).
    """
    for window in in_windows(requests, passes.window, config.vocab_size):
        yield from _score_window(config, params, window, passes)


def score_requests(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[Scored]:
    """Score a list of requests as `stream_scores` does, but check all of them first."""
    check_requests(requests, config.vocab_size)
    return list(stream_scores(config, params, requests, passes))


def log_likelihoods(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[np.ndarray]:
    """Return for each request float32[n - start]: log p(tokens[i] | tokens[:i]) in nats.

    Raises ValueError for an invalid request (see `check_requests`).
    """
    return [scored.log_probs for scored in score_requests(config, params, requests, passes)]


def greedy_matches(
    config: DecoderConfig,
    params: Params,
    requests: Sequence[Request],
    passes: Passes = PASSES,
) -> list[np.ndarray]:
    """Return for each request bool[n - start]: whether each token is the likeliest in its place.

    All of them are exactly if greedy generation from tokens[:start] gives tokens[start:].
    """
    return [scored.greedy for scored in score_requests(config, params, requests, passes)]


def lower_scoring(config: DecoderConfig, params: Params, length: int, platform: str) -> Lowered:
    """Lower a pass of `stream_scores` over whole rows of a length, on the mesh in context.

    The devices of the mesh may be absent.
    """
    rows = pass_rows(length, platform)
    tokens_RxL = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    first_R = jax.ShapeDtypeStruct((rows,), jnp.int32)
    chunks = head_chunks(rows, length, config.vocab_size)
    execution = execution_of(config, length, platform)
    made = _score.lower(config, params, tokens_RxL, first_R, length, chunks, execution)
    return Lowered(made, rows, execution)


def _score_window(
    config: DecoderConfig, params: Params, requests: Sequence[Request], passes: Passes
) -> list[Scored]:
    run = functools.partial(_run, _score, config, params)
    return run_requests(run, requests, passes, lambda *given: Scored(*_take(*given)))


def _run(of: Callable[..., Any], config: DecoderConfig, params: Params, one: Pass) -> Any:
    """Compute one pass by `_score` or `_moments`."""
    span, how = one.wanted_RxS.shape[1], pass_options(config, one)
    return of(config, params, one.tokens_RxL, one.first_R, span, *how)


def _take(one: Pass, row: int, arrays: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the requested positions of a row, float32[n - start], of each array."""
    return (array_RxS[row, one.wanted_RxS[row]] for array_RxS in arrays)


class Moments(NamedTuple):
    """The result for tokens[start:], each given all before it: float32[n - start] each, in nats."""

    log_probs: np.ndarray
    means: np.ndarray
    """Mean log-probability of a token drawn from the model, that is minus the entropy."""
    stds: np.ndarray
    """Standard deviation of the same."""


def vocabulary_moments(
    config: DecoderConfig, params: Params, requests: Sequence[Request], passes: Passes = PASSES
) -> list[Moments]:
    """Return the moments of each request, in order, for Min-K%++ (see `attacks`).

    Raises ValueError for an invalid request (see `check_requests`).
    """
    check_requests(requests, config.vocab_size)
    run = functools.partial(_run, _moments, config, params)
    return run_requests(run, requests, passes, lambda *given: Moments(*_take(*given)))


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
    """Return float32[R, span] three times, for the tokens after first .. first + span - 1.

    Only one of `chunks` pieces of the span has logits at a time. Uses the mesh in context, if any;
    the results are replicated.
    """
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    x_RxLxD = features(config, params, tokens_RxL, execution=execution)
    head = constrain(params["head"].astype(x_RxLxD.dtype), None, "vocab")

    def cut(array_RxLx_: jax.Array) -> jax.Array:
        """[chunks, R, span / chunks, ...]"""
        taken = slice_spans(array_RxLx_, first_R, span)
        pieces = taken.reshape(len(taken), chunks, span // chunks, *taken.shape[2:])
        return pieces.swapaxes(0, 1)

    def piece(each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        x_RxNxD, targets_RxN = each
        logits = constrain(x_RxNxD @ head, "batch", None, "vocab").astype(jnp.float32)
        log_p = jax.nn.log_softmax(logits)
        p = jnp.exp(log_p)
        # A sum instead of a gather: a gather would collect a sharded vocabulary on every device.
        ids = jax.lax.broadcasted_iota(targets_RxN.dtype, logits.shape, 2)
        target_RxN = jnp.where(ids == targets_RxN[..., None], log_p, 0).sum(-1)
        mean_RxN = (p * log_p).sum(-1)
        # Centred: a difference of squares would lose a small spread to rounding.
        variance_RxN = (p * (log_p - mean_RxN[..., None]) ** 2).sum(-1)
        return target_RxN, mean_RxN, jnp.sqrt(variance_RxN)

    pieces = jax.lax.map(piece, (cut(x_RxLxD), cut(jnp.roll(tokens_RxL, -1, axis=1))))
    whole = (each.swapaxes(0, 1).reshape(len(tokens_RxL), span) for each in pieces)
    return tuple(constrain(each, None, None) for each in whole)
