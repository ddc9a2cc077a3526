import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttoaa.model.rotary import rotate, rotate_by_matmul


def test_positions_count_only_by_their_distance():
    """RoPE: the product of a query and a key is a function of how far apart they stand."""
    rng = np.random.default_rng(3)
    q, k = (np.broadcast_to(rng.standard_normal(8), (1, 1, 12, 8)) for _ in range(2))
    q, k = rotate(jnp.asarray(q, jnp.float32), 500.0), rotate(jnp.asarray(k, jnp.float32), 500.0)
    products = np.einsum("lc,mc->lm", q[0, 0], k[0, 0])
    for distance in range(12):
        along = np.diagonal(products, -distance)
        np.testing.assert_allclose(along, along[0], atol=1e-5)
    assert np.ptp(products[:, 0]) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotation_by_a_product_is_the_rotation_forward_and_backward(dtype):
    rng = np.random.default_rng(4)
    x, dy = (jnp.asarray(rng.standard_normal((2, 3, 40, 16)), dtype) for _ in range(2))
    (plain, plain_back), (product, product_back) = (
        jax.vjp(lambda x, turn=turn: turn(x, 100.0), x) for turn in (rotate, rotate_by_matmul)
    )
    for ours, theirs in ((product, plain), (product_back(dy)[0], plain_back(dy)[0])):
        assert ours.dtype == theirs.dtype
        # A multiply-add may round once where the other rounds twice.
        step = {"float32": 1e-6, "bfloat16": 2**-7}[dtype]
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=step, atol=1e-6)
