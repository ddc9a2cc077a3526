import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.saved import by_ravel, put, trees

from ttoaa.training.checkpoint_io import _fingerprint, fingerprints


def by_hand(leaf):
    """The fingerprint in Python integers."""
    raw = np.asarray(leaf)
    values = np.frombuffer(raw.tobytes(), {1: "u1", 2: "<u2", 4: "<u4"}[raw.dtype.itemsize])
    word = 2**32

    def mix(h):
        h = (h ^ (h >> 16)) * 0x85EBCA6B % word
        h = (h ^ (h >> 13)) * 0xC2B2AE35 % word
        return h ^ (h >> 16)

    first = second = 0
    for index, value in enumerate(map(int, values)):
        first += mix((value + mix((index + 0x9E3779B9) % word)) % word)
        second += mix((value * 0x9E3779B1) % word ^ mix((index + 0x7F4A7C15) % word))
    return [f"{raw.dtype}{list(raw.shape)}", first % word, second % word]


def test_fingerprints_by_hand():
    params, opt = put(trees(4))
    ours = fingerprints((params, opt))
    leaves = jax.tree_util.tree_flatten_with_path((params, opt))[0]
    assert ours == {jax.tree_util.keystr(path): by_hand(leaf) for path, leaf in leaves}
    assert json.loads(json.dumps(ours)) == ours


def test_fingerprints_change_with_one_ulp_a_sign_of_zero_and_a_swap():
    values = np.linspace(-1, 1, 1001).astype(np.float32)
    values[500] = 0.0
    plain = fingerprints(values)[""]
    for place in (0, 17, 1000):
        changed = values.copy()
        changed[place] = np.nextafter(values[place], np.float32(9))
        assert all(a != b for a, b in zip(plain[1:], fingerprints(changed)[""][1:], strict=True))
    negative = values.copy()
    negative[500] = -0.0
    assert fingerprints(negative)[""] != plain
    swapped = values.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert fingerprints(swapped)[""] != plain
    assert fingerprints(values.reshape(7, 143))[""] != plain


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4, 5), (4, 0)])
def test_fingerprints_are_those_of_the_array_as_one_row(shape):
    """As checkpoints of earlier versions hold them."""
    values = np.random.default_rng(1).standard_normal(shape)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32, jnp.int8, jnp.bool_):
        leaf = np.asarray(values, dtype)
        assert fingerprints({"x": leaf}) == {"['x']": by_ravel(leaf)}


def test_the_index_of_a_leaf_of_more_than_four_billion_elements_wraps():
    """Its program is only traced: the strides must fit 32 bits."""
    leaf = jax.ShapeDtypeStruct((3, 2**17, 2**16), jnp.bfloat16)
    assert jax.eval_shape(_fingerprint, leaf).shape == (2,)


def test_nothing_has_no_fingerprints():
    assert fingerprints({}) == {}
