import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model import reference
from model.test_decoder import loud_params

from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.kv_cache import add_slots, decode_token, prefill

P, M = 8, 20
PLAIN = DecoderConfig(vocab_size=37, layers=2, width=24, heads=6, hidden=20)
SHARED = dataclasses.replace(PLAIN, kv_heads=2, rope_theta=50.0)
CONFIGS = {
    "every head its own": PLAIN,
    "heads share": SHARED,
    "all share": dataclasses.replace(PLAIN, kv_heads=1, layers=1),
}
LENGTHS = np.array([1, 3, 7, 8])
"""Of the prompts: one token, to all that fit."""
ROWS = len(LENGTHS)


@functools.partial(jax.jit, static_argnums=0)
def prompted(config, params, tokens_BxL, lengths_B):
    """([B, P, D], a cache of M slots), the prompts cut to their lengths."""
    prompts = jnp.where(jnp.arange(P) < lengths_B[:, None], tokens_BxL[:, :P], 0)
    x_BxPxD, cache = prefill(config, params, prompts)
    return x_BxPxD, add_slots(cache, M)


@functools.partial(jax.jit, static_argnums=0)
def continued(config, params, tokens_BxL, lengths_B, cache):
    """[B, M - P, D]: what the head takes for each token after the prompt, fed one at a time."""
    slot_M = jnp.arange(M)

    def one(cache, place):
        position_B = lengths_B + place
        tokens_B = jnp.take_along_axis(tokens_BxL, position_B[:, None], axis=1)[:, 0]
        visible = (slot_M < lengths_B[:, None]) | ((slot_M >= P) & (slot_M <= P + place))
        x, cache = decode_token(config, params, tokens_B, position_B, P + place, visible, cache)
        return cache, x

    return jax.lax.scan(one, cache, jnp.arange(M - P))[1].swapaxes(0, 1)


def run(config, params, tokens_BxL, lengths_B):
    _, cache = prompted(config, params, tokens_BxL, lengths_B)
    return np.asarray(continued(config, params, tokens_BxL, lengths_B, cache))


def draw_tokens(config, rows=ROWS, seed=1):
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, M)).astype(np.int32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_token_at_a_time_gives_what_a_plain_olmo2_gives(config):
    params, tokens = loud_params(config), draw_tokens(config)
    prompt, cache = prompted(config, params, tokens, LENGTHS)
    after = continued(config, params, tokens, LENGTHS, cache)
    expected = reference.logits(config, params, tokens)
    for row, n in enumerate(LENGTHS):
        np.testing.assert_allclose(prompt[row, :n] @ params["head"], expected[row, :n], atol=5e-5)
        logits, wanted = after[row] @ params["head"], expected[row, n : n + M - P]
        np.testing.assert_allclose(logits, wanted, atol=5e-5)


def test_hidden_slots_are_never_read():
    params, tokens = loud_params(SHARED), draw_tokens(SHARED)
    _, cache = prompted(SHARED, params, tokens, LENGTHS)
    assert [part.shape for layer in cache for part in layer] == [(ROWS, 2, M, 4)] * 4
    unused = (np.arange(M) >= LENGTHS[:, None])[:, None, :, None]
    dirty = jax.tree.map(lambda part: jnp.where(unused, 1e9, part), cache)
    clean = continued(SHARED, params, tokens, LENGTHS, cache)
    np.testing.assert_array_equal(continued(SHARED, params, tokens, LENGTHS, dirty), clean)


def test_a_row_does_not_depend_on_its_neighbours_or_place():
    params, rng = loud_params(SHARED), np.random.default_rng(7)
    tokens, lengths = draw_tokens(SHARED, 32), rng.integers(1, P + 1, 32)
    after = run(SHARED, params, tokens, lengths)
    order = rng.permutation(32)
    np.testing.assert_array_equal(run(SHARED, params, tokens[order], lengths[order]), after[order])
    others, other_lengths = draw_tokens(SHARED, 32, seed=8), np.ones(32, int)
    others[5], other_lengths[5] = tokens[5], lengths[5]
    np.testing.assert_array_equal(run(SHARED, params, others, other_lengths)[5], after[5])
