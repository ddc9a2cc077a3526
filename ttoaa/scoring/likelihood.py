"""Log-likelihood of tokens under a checkpoint: the first of the scoring primitives (C10).

A score depends on the item alone, to the bit: its compiled shape follows from its own length,
dummy rows fill a pass up, and on CPU rows run in fixed small passes.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttoaa.model.decoder import DecoderConfig, Params, features
from ttoaa.model.execution import PLAIN, Execution
from ttoaa.model.loss import token_losses
from ttoaa.model.sharding import constrain, row_parts

Request = tuple[np.ndarray, int]
"""(tokens int[n], start): score tokens[start:], given all that stands before each."""

_BUCKET = 32


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
        loss, _ = token_losses(x_RxLxD, params["head"], targets_RxL, execution.loss_chunks)
        return -loss[:, :-1]

    N, L = tokens_NxL.shape
    scores = jax.lax.map(one, tokens_NxL.reshape(-1, rows, L)).reshape(N, L - 1)
    return constrain(scores, None, None)


def pass_rows(length: int, platform: str | None = None) -> int:
    """Rows of one pass: two a device suit a CPU's caches, an accelerator takes 16,384 tokens."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else row_parts(mesh)
    on_cpu = (platform or jax.default_backend()) == "cpu"
    return parts * (2 if on_cpu else max(1, 16_384 // length))


def row_losses(
    config: DecoderConfig,
    params: Params,
    tokens_NxL: np.ndarray,
    execution: Execution = PLAIN,
) -> np.ndarray:
    """float32[N]: the mean loss of each row's L - 1 targets, in nats."""
    rows = pass_rows(tokens_NxL.shape[1])
    padded = _fill(np.asarray(tokens_NxL, np.int32), rows)
    scores = token_log_probs(config, params, padded, rows=rows, execution=execution)
    return -np.asarray(scores).mean(axis=1)[: len(tokens_NxL)]


def log_likelihoods(
    config: DecoderConfig, params: Params, requests: Sequence[Request], batch: int = 64
) -> list[np.ndarray]:
    """For each request, float32[n - start]: log p(tokens[i] | tokens[:i]) for i = start .. n - 1.

    Rows go in batches of about `batch`, grouped by length; neither changes a score.
    Raises ValueError for a request without context or without anything to score.
    """
    for number, (tokens, start) in enumerate(requests):
        if not 1 <= start < len(tokens):
            raise ValueError(
                f"request {number}: start {start} must leave context before it and tokens after "
                f"it, of {len(tokens)} tokens"
            )
    buckets: dict[int, list[int]] = {}
    for number, (tokens, _) in enumerate(requests):
        buckets.setdefault(-(-len(tokens) // _BUCKET) * _BUCKET, []).append(number)
    scores: list[np.ndarray] = [np.empty(0, np.float32)] * len(requests)
    for length, members in sorted(buckets.items()):
        rows = pass_rows(length)
        filled = -(-batch // rows) * rows
        for first in range(0, len(members), filled):
            part = members[first : first + filled]
            tokens_NxL = np.zeros((filled, length), np.int32)
            for row, number in enumerate(part):
                tokens_NxL[row, : len(requests[number][0])] = requests[number][0]
            out = np.asarray(token_log_probs(config, params, tokens_NxL, rows=rows))
            for row, number in enumerate(part):
                tokens, start = requests[number]
                scores[number] = out[row, start - 1 : len(tokens) - 1].copy()
    return scores


def _fill(tokens_NxL: np.ndarray, rows: int) -> np.ndarray:
    missing = -len(tokens_NxL) % rows
    return np.pad(tokens_NxL, ((0, missing), (0, 0)))
