import jax
import jax.numpy as jnp
import pytest

from ttoaa.compilation import compiled as module
from ttoaa.compilation import hlo
from ttoaa.compilation.compiled import compiled


@pytest.fixture
def lowered():
    return jax.jit(lambda x: jnp.tanh(x @ x)).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32))


def test_a_program_leaves_its_text_and_its_memory(lowered):
    made = compiled(lowered, {}, None)
    assert "dot" in made.text or "custom-call" in made.text
    assert made.gib * 2**30 >= 2 * 4 * 64 * 64  # argument and result
    assert hlo.parse(made.text).runs
    assert made.refused == ""


def test_it_is_compiled_once_given_a_folder(lowered, tmp_path, monkeypatch):
    made = compiled(lowered, {}, tmp_path)
    monkeypatch.setattr(module, "_compile", lambda *given: pytest.fail("compiled again"))
    assert compiled(lowered, {}, tmp_path) == made
    other = {"xla_cpu_enable_fast_math": "true"}
    with pytest.raises(pytest.fail.Exception):
        compiled(lowered, other, tmp_path)  # other options are another program


def test_another_refusal_than_for_memory_is_an_error(lowered):
    with pytest.raises(ValueError, match=r"XLA refuses.*no_such_option"):
        compiled(lowered, {"no_such_option": "1"}, None)
