import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from model import reference

from ttoaa.model import decoder
from ttoaa.model.decoder import DecoderConfig, abstract_params

apply = jax.jit(decoder.apply, static_argnums=0)
init_params = jax.jit(decoder.init_params, static_argnums=0)

SMALL = DecoderConfig(vocab_size=61, layers=2, width=32, heads=4, hidden=48)
SHAPES = [
    (SMALL, (2, 12)),
    (DecoderConfig(vocab_size=37, layers=3, width=24, heads=6, hidden=20, kv_heads=2), (3, 9)),
    (DecoderConfig(vocab_size=101, layers=1, width=16, heads=4, hidden=64, kv_heads=1), (1, 33)),
    (DecoderConfig(53, 2, 12, 2, 8, rope_theta=100.0, norm_eps=1e-3), (2, 40)),
]


def loud_params(config, seed=0):
    """Weights large enough that every part matters, and norms that are not one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "norm" in jax.tree_util.keystr(path):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


def draw_tokens(config, shape, seed=1):
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape).astype(np.int32)


@pytest.mark.parametrize(("config", "shape"), SHAPES)
def test_logits_equal_a_plain_olmo2(config, shape):
    params, tokens = loud_params(config), draw_tokens(config, shape)
    ours = apply(config, params, tokens)
    assert ours.dtype == jnp.float32 and ours.shape == (*shape, config.vocab_size)
    expected = reference.logits(config, params, tokens)
    assert expected.std() > 0.5, "the comparison needs logits of a real size"
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_an_offset_is_added_to_the_input_embeddings():
    params, tokens = loud_params(SMALL), draw_tokens(SMALL, (2, 8))
    offset = np.random.default_rng(2).normal(0, 0.3, (2, 8, SMALL.width)).astype(np.float32)
    ours = apply(SMALL, params, tokens, offset)
    expected = reference.logits(SMALL, params, tokens, offset)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert np.abs(ours - apply(SMALL, params, tokens)).max() > 0.1
    zero = apply(SMALL, params, tokens, np.zeros_like(offset))
    np.testing.assert_array_equal(zero, apply(SMALL, params, tokens))


def test_no_logit_depends_on_a_later_token():
    params, tokens = loud_params(SMALL), draw_tokens(SMALL, (1, 8))
    zero = jnp.zeros((1, 8, SMALL.width))

    def squares(offset):
        return (apply(SMALL, params, tokens, offset)[0] ** 2).sum(axis=-1)

    reaches_LxL = np.abs(jax.jit(jax.jacrev(squares))(zero)[:, 0]).max(axis=-1) > 0
    np.testing.assert_array_equal(reaches_LxL, np.tri(8, dtype=bool))


@pytest.mark.parametrize("config", [config for config, _ in SHAPES])
def test_number_of_parameters_and_their_names(config):
    D, F, V, kv = config.width, config.hidden, config.vocab_size, config.num_kv_heads
    K = kv * (D // config.heads)
    block = 2 * D * D + 2 * D * K + 3 * D * F + (D + K) + 2 * D
    params = abstract_params(config)
    assert config.num_params() == 2 * V * D + config.layers * block + D
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == config.num_params()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    blocks = {f"block_{n:02d}" for n in range(config.layers)}
    assert set(params) == {"embedding", "head", "norm"} | blocks


def test_flops_count_matrices_six_times_and_half_the_attention():
    L, D, F, V = 20, SMALL.width, SMALL.hidden, SMALL.vocab_size
    norms = SMALL.layers * 4 * D + D
    matrices = SMALL.layers * (4 * D * D + 3 * D * F) + V * D
    attention = SMALL.layers * 2 * 2 * D * (L / 2)  # QK and AV, two FLOPs each, half the keys
    assert SMALL.flops_per_token(L) == 6 * (matrices + norms) + 3 * attention


def test_initial_weights_are_a_truncated_normal():
    config = dataclasses.replace(SMALL, vocab_size=4001, width=64, hidden=256, init_std=0.05)
    params = init_params(config, jax.random.key(4))
    for weight in (params["embedding"], params["head"], params["block_01"]["mlp"]["up"]):
        values = np.asarray(weight).ravel() / 0.05
        assert np.abs(values).max() <= 3
        assert abs(values.mean()) < 4 / np.sqrt(values.size)
        # A standard normal cut at three has this deviation.
        np.testing.assert_allclose(values.std(), 0.98658, atol=3 / np.sqrt(values.size))
    assert np.abs(np.asarray(params["embedding"])).max() > 2.9 * 0.05
    np.testing.assert_array_equal(params["norm"]["weight"], 1)


def test_initial_weights_follow_the_key_alone():
    first, again, other = (init_params(SMALL, jax.random.key(seed)) for seed in (0, 0, 1))
    same = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(first["embedding"], other["embedding"])
    blocks = [first[f"block_{n:02d}"]["mlp"]["up"] for n in range(2)]
    assert not np.array_equal(*blocks)


def test_bfloat16_runs_near_float32_and_gives_float32():
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    params, tokens = loud_params(SMALL), draw_tokens(SMALL, (2, 12))
    half, full = apply(config, params, tokens), apply(SMALL, params, tokens)
    assert half.dtype == jnp.float32
    error = np.abs(half - full)
    assert 1e-4 < error.max() < 0.15
    gradient = jax.jit(jax.grad(lambda p: apply(config, p, tokens).var()))(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"float32"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads times an even head width"),
        ({"heads": 32}, "heads times an even head width"),
        ({"kv_heads": 3}, "heads must be a multiple of kv_heads"),
    ],
)
def test_impossible_sizes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_heads_are_split_and_merged_alike_in_the_form_for_a_tpu():
    config, _ = SHAPES[1]
    attention = decoder.Attention(config, nnx.Rngs(0))
    x = np.random.default_rng(5).standard_normal((2, 7, config.width)).astype(np.float32)
    for name in ("query", "key", "value"):
        plain, on_tpu = (attention._project_heads(x, name, which) for which in (False, True))
        np.testing.assert_allclose(on_tpu, plain, atol=1e-6)
    heads = attention._project_heads(x, "query", False).swapaxes(1, 2)
    plain, on_tpu = (attention.project_out(heads, which) for which in (False, True))
    np.testing.assert_allclose(on_tpu, plain, atol=1e-6)
