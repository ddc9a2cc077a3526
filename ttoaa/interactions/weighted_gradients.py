"""Gradients of weighted sums of token losses, over few texts of any lengths."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ttoaa.model.compute_config import PLAIN, Execution
from ttoaa.model.decoder import DecoderConfig, Params, features
from ttoaa.model.loss import token_losses
from ttoaa.model.sharding import constrain
from ttoaa.training.step import CompiledStep


class Text(NamedTuple):
    tokens: np.ndarray
    """int32[n], at most a row."""
    weight: float
    """Of the loss of each token but the first, which is not a target."""


def weighted_gradient(program: CompiledStep, params: Params, texts: Sequence[Text]) -> Params:
    """Return the gradient of the weighted sum of cross-entropies (nats) of all texts.

    Texts are padded to powers of two, and one pass has about the tokens of a micro-batch of
    training. Zero without texts.
    """
    with jax.set_mesh(program.mesh):
        total = jax.tree.map(jnp.zeros_like, params)
        for tokens_RxL, weights_RxL in _passes(program, texts):
            whole = tokens_RxL.shape[1] == program.geometry.length
            execution = program.resolved if whole else PLAIN
            total = _add(program.model, execution, total, params, tokens_RxL, weights_RxL)
        return total


def _passes(
    program: CompiledStep, texts: Sequence[Text]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (tokens int32[R, L], weights float32[R, L] of the targets) of equally long texts."""
    row, least = program.geometry.length, program.resolved.microbatch
    assert least is not None
    groups: dict[int, list[Text]] = {}
    for text in texts:
        length = min(row, 1 << (len(text.tokens) - 1).bit_length())
        groups.setdefault(length, []).append(text)
    for length, group in groups.items():
        rows = least * max(1, row // length)
        for first in range(0, len(group), rows):
            tokens_RxL = np.zeros((rows, length), np.int32)
            weights_RxL = np.zeros((rows, length), np.float32)
            for r, text in enumerate(group[first : first + rows]):
                tokens_RxL[r, : len(text.tokens)] = text.tokens
                weights_RxL[r, : len(text.tokens) - 1] = text.weight
            yield tokens_RxL, weights_RxL


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _add(
    config: DecoderConfig,
    execution: Execution,
    total: Params,
    params: Params,
    tokens_RxL: jax.Array,
    weights_RxL: jax.Array,
) -> Params:
    tokens_RxL, weights_RxL = (constrain(x, "batch", None) for x in (tokens_RxL, weights_RxL))

    def summed(params: Params) -> jax.Array:
        x_RxLxD = features(config, params, tokens_RxL, execution=execution)
        targets_RxL = jnp.roll(tokens_RxL, -1, axis=1)
        losses, _ = token_losses(x_RxLxD, params["head"], targets_RxL, execution.loss_chunks)
        return jnp.sum(losses * weights_RxL)

    return jax.tree.map(jnp.add, total, jax.grad(summed)(params))


def second_moments(state: Any, beta2: float) -> Params:
    """Return the bias-corrected second moments in the state of Adam."""
    nu, count = (optax.tree_utils.tree_get(state, name) for name in ("nu", "count"))
    return jax.tree.map(lambda x: x / (1 - jnp.float32(beta2) ** count), nu)


@jax.jit
def adam_scaled(gradient: Params, nu_hat: Params, eps: float) -> Params:
    """Return gradient / (sqrt(nu_hat + gradient**2) + eps).

    Adam adds the gradient itself to its second moments. Without that, embeddings of tokens that the
    corpus does not have, whose moments are 0, would decide all products of an experiment that
    inserts them.
    """
    return jax.tree.map(lambda g, nu: g / (jnp.sqrt(nu + g**2) + eps), gradient, nu_hat)


@jax.jit
def inner_product(a: Params, b: Params) -> jax.Array:
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), jnp.float32(0))
