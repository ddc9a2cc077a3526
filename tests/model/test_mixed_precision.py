import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttoaa.model.mixed_precision import mixed_einsum

CASES = {
    "bli,io->blo": ((2, 5, 3), (3, 4)),
    "dhc,bld->bhlc": ((6, 2, 3), (2, 5, 6)),
    "bhlc,hcd->bld": ((2, 2, 5, 3), (2, 3, 4)),
}


def operands(spec, scale=1.0):
    rng = np.random.default_rng(4)
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in CASES[spec]]


@pytest.mark.parametrize("spec", CASES)
def test_product_and_gradients_are_those_of_einsum_in_float64(spec):
    a, b = (x.astype(np.float64) for x in operands(spec))
    y = np.einsum(spec, a, b)
    dy = np.random.default_rng(5).standard_normal(y.shape)
    inputs, out = spec.split("->")
    of_a, of_b = inputs.split(",")
    found, pull = jax.vjp(lambda a, b: mixed_einsum(spec, a, b), *operands(spec))
    da, db = pull(dy.astype(np.float32))
    np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(da, np.einsum(f"{out},{of_b}->{of_a}", dy, b), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(db, np.einsum(f"{of_a},{out}->{of_b}", a, dy), rtol=1e-5, atol=1e-6)


def test_a_weights_gradient_is_summed_in_float32():
    """4,096 tokens of 1 and then one of 2**-7: in bfloat16 the small one would be lost."""
    x = jnp.ones((1, 4097, 1), jnp.bfloat16).at[0, -1].set(2.0**-7)
    weight = jnp.ones((1, 1), jnp.float32)
    y, pull = jax.vjp(lambda x, weight: mixed_einsum("bli,io->blo", x, weight), x, weight)
    dx, dweight = pull(jnp.ones_like(y))
    assert (y.dtype, dx.dtype, dweight.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert float(dweight[0, 0]) == 4096 + 2.0**-7
