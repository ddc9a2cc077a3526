import jax
import jax.numpy as jnp
import pytest

from ttoaa.compilation import estimate as module
from ttoaa.compilation import hlo
from ttoaa.compilation.estimate import compile_cached


@pytest.fixture
def lowered():
    return jax.jit(lambda x: jnp.tanh(x @ x)).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32))


def test_a_program_leaves_its_text_and_its_memory(lowered):
    made = compile_cached(lowered, {}, None)
    assert "dot" in made.text or "custom-call" in made.text
    assert made.gib * 2**30 >= 2 * 4 * 64 * 64  # argument and result
    assert hlo.parse(made.text).launches
    assert made.refused == ""


def test_it_is_compiled_once_given_a_folder(lowered, tmp_path, monkeypatch):
    made = compile_cached(lowered, {}, tmp_path)
    monkeypatch.setattr(module, "_compile", lambda *given: pytest.fail("compiled again"))
    assert compile_cached(lowered, {}, tmp_path) == made
    other = {"xla_cpu_enable_fast_math": "true"}
    with pytest.raises(pytest.fail.Exception):
        compile_cached(lowered, other, tmp_path)  # other options are another program


def test_another_refusal_than_for_memory_is_an_error(lowered):
    with pytest.raises(ValueError, match=r"XLA refuses.*no_such_option"):
        compile_cached(lowered, {"no_such_option": "1"}, None)
