"""The next token: the likeliest, or one drawn from a distribution that may be cut.

A draw depends on its item alone (C10): an item has a random stream of its own (see `item_key`), and
its n-th token takes the n-th draw of it, on any device.
"""

import jax
import jax.numpy as jnp


def choose(
    logits_BxV: jax.Array,
    keys_Bx2: jax.Array,
    number: jax.Array,
    temperature: jax.Array | float | None,
    top_k: int | None = None,
    top_p: jax.Array | float | None = None,
) -> jax.Array:
    """int32[B]: each row's next token.

    Args:
        logits_BxV: float32.
        keys_Bx2: of `item_key`.
        number: which of the item's new tokens this is.
        temperature: None takes the likeliest.
        top_k, top_p: as in `Sampling`; None does not cut. Cuts follow the temperature, and top_p
            counts probabilities that sum to 1 over what top_k left.
    """
    if temperature is None:
        return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    # Less the largest first: no temperature makes an overflow of it.
    scores = (logits_BxV - logits_BxV.max(axis=-1, keepdims=True)) / temperature
    tokens_BxV = None
    if top_k is not None or top_p is not None:
        V = logits_BxV.shape[-1]
        scores, tokens_BxV = jax.lax.top_k(scores, min(top_k or V, V))
    if top_p is not None:
        probability = jax.nn.softmax(scores, axis=-1)
        likelier = jnp.cumsum(probability, axis=-1) - probability
        # The likeliest stays whatever rounding says.
        kept = (likelier < top_p).at[:, 0].set(True)
        scores = jnp.where(kept, scores, -jnp.inf)
    keys_B = jax.random.wrap_key_data(keys_Bx2, impl="threefry2x32")
    drawn_B = jax.vmap(
        lambda key, row: jax.random.categorical(jax.random.fold_in(key, number), row)
    )(keys_B, scores)
    if tokens_BxV is None:
        return drawn_B.astype(jnp.int32)
    return jnp.take_along_axis(tokens_BxV, drawn_B[:, None], axis=-1)[:, 0].astype(jnp.int32)
