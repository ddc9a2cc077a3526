"""The least likely next tokens after a prompt under a checkpoint (contract C10).

Canaries of the kind 'unlikely' end in them. A result depends on its prompt alone, to the bit (see
`length_buckets`).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig, Params, features
from ttoaa.model.sharding import constrain
from ttoaa.scoring.length_buckets import (
    PASSES,
    Pass,
    Passes,
    check_requests,
    pass_options,
    run_requests,
    slice_spans,
)


def least_likely(
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[np.ndarray],
    count: int,
    among: np.ndarray,
    passes: Passes = PASSES,
) -> np.ndarray:
    """Return int32[N, count]: the least likely tokens after each prompt, the least likely first.

    Only the tokens `among`, int[m], are considered. Of equally likely ones the smaller id is first.
    Raises ValueError for an empty prompt, unknown tokens, or fewer than `count` tokens in `among`.
    """
    among = np.unique(among)
    if not 1 <= count <= len(among) or among[0] < 0 or among[-1] >= config.vocab_size:
        raise ValueError(
            f"the {count} least likely of {len(among)} tokens: count must be from 1 to the number "
            f"of tokens, and these within the vocabulary of {config.vocab_size}"
        )
    requests = [(np.append(prompt, among[0]), len(prompt)) for prompt in prompts]
    check_requests(requests, config.vocab_size)
    excluded_V = np.ones(config.vocab_size, bool)
    excluded_V[among] = False

    def run(one: Pass) -> jax.Array:
        last_R = one.first_R + one.wanted_RxS.argmax(axis=1).astype(np.int32)
        _, execution = pass_options(config, one)
        return _least(config, params, one.tokens_RxL, last_R, excluded_V, count, execution)

    found = run_requests(run, requests, passes, lambda one, row, tokens_RxC: tokens_RxC[row])
    return np.array(found, np.int32).reshape(len(prompts), count)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _least(
    config: DecoderConfig,
    params: Params,
    tokens_RxL: jax.Array,
    last_R: jax.Array,
    excluded_V: jax.Array,
    count: int,
    execution: Execution,
) -> jax.Array:
    """Return int32[R, count], replicated: the least likely tokens after each position last_R."""
    tokens_RxL = constrain(tokens_RxL, "batch", None)
    x_RxLxD = features(config, params, tokens_RxL, execution=execution)
    x_RxD = slice_spans(x_RxLxD, last_R, 1)[:, 0]
    head = constrain(params["head"].astype(x_RxD.dtype), None, "vocab")
    logits_RxV = constrain((x_RxD @ head).astype(jnp.float32), None, None)
    _, tokens_RxC = jax.lax.top_k(jnp.where(excluded_V, -jnp.inf, -logits_RxV), count)
    return constrain(tokens_RxC.astype(jnp.int32), None, None)
