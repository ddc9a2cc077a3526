import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import snippets

from ttoaa import accelerators
from ttoaa.compilation import estimate as module
from ttoaa.compilation import hlo
from ttoaa.compilation.estimate import (
    CompiledProgram,
    _needed_gib,
    compile_cached,
    extrapolate,
    measure,
    report,
)

CHIP = accelerators.Chip(
    peak_flops=1e12, hbm_gib=16.0, hbm_bandwidth=1e12, link=1e9, clock=1e6, ring=4
)
MEASURES = {
    "hbm_gib": 12.5,
    "compile_seconds": 1.0,
    "gib/all-gather": 0.5,
    "attention_flops": 1e11,
    "loops": 0.0,
    "unknown_loops": 0.0,
    "unknown_kernels": 0.0,
    "roofline": 0.6,
    "cycles": 0.8,
    "mixed": 0.5,
    "products": 0.5,
    "optimal": -20.0,
    "waited": 0.2,
    "hidden": 0.1,
}


@dataclasses.dataclass
class Device:
    coords: tuple[int, ...]
    device_kind: str = "TPU test"


class Mesh:
    """Four chips in a square, as far as the estimate looks at a mesh."""

    devices = np.array([Device((0, 0)), Device((0, 1)), Device((1, 0)), Device((1, 1))])
    size = 4


@pytest.fixture(autouse=True)
def known_chip(monkeypatch):
    monkeypatch.setitem(accelerators.CHIPS, "TPU test", CHIP)


def test_the_report_adds_up_by_hand():
    found = report(MEASURES, Mesh(), model_flops=2e12)  # 0.5 s at the peak of four devices
    assert found["estimated_seconds"] == pytest.approx(0.6 + 0.1 / 0.5 + 0.2)
    assert found["implied_mfu"] == pytest.approx(0.5)
    at = found["by_attention_efficiency"]
    assert at["0.4"]["seconds"] == pytest.approx(0.6 + 0.25 + 0.2)
    assert at["0.6"]["mfu"] == pytest.approx(0.5 / (0.6 + 0.1 / 0.6 + 0.2), abs=1e-4)
    assert found["pessimistic"]["seconds"] == pytest.approx(0.8 + 0.25 + 0.2)
    limits = found["limits"]
    assert limits == {
        "ideal": 0.5,
        "matrix_products": 0.5,
        "memory": 0.1,
        "attention": 0.2,
        "collectives": 0.2,
    }
    assert (found["fits"], found["capacity_gib"], found["hbm_gib"]) == (True, 16.0, 12.5)
    assert found["collective_gib"] == {"all-gather": 0.5}
    assert found["clocks"]["xla_optimal"] is None  # negative: nonsense


@pytest.mark.parametrize(
    ("change", "shown"),
    [({"optimal": 0.61}, 0.61), ({"optimal": 0.61, "loops": 1.0}, None), ({"optimal": 0.1}, None)],
)
def test_the_compilers_own_seconds_are_shown_where_they_can_be_true(change, shown):
    assert report(MEASURES | change, Mesh(), 2e12)["clocks"]["xla_optimal"] == shown


def test_no_time_is_given_for_what_nobody_can_know(monkeypatch):
    for what in ("loops", "kernels"):
        found = report(MEASURES | {f"unknown_{what}": 1.0}, Mesh(), 2e12)
        assert found["estimated_seconds"] is found["implied_mfu"] is found["limits"] is None
        assert found["unknown"][what] == 1
    assert "unknown" not in report(MEASURES, Mesh(), 2e12)
    monkeypatch.delitem(accelerators.CHIPS, "TPU test")
    unknown = report(MEASURES, Mesh(), 2e12)
    assert unknown["hbm_gib"] == 12.5
    assert unknown["fits"] is unknown["capacity_gib"] is unknown["implied_mfu"] is None


def test_too_large_a_program_does_not_fit_and_has_no_time():
    refused = CompiledProgram("", 104.0, 0.0, 1.0, "RESOURCE_EXHAUSTED: …")
    found = report(measure(refused, Mesh()), Mesh(), 2e12)
    assert (found["fits"], found["hbm_gib"], found["estimated_seconds"]) == (False, 104.0, None)


@pytest.mark.parametrize(
    ("message", "gib"),
    [
        ("RESOURCE_EXHAUSTED: … ran out of memory. Used 104.03G of 95.74G hbm.", 104.03),
        ("RESOURCE_EXHAUSTED: … HLO temporaries (800.00G) exceeds available HBM (95.74G)", 800.0),
        ("RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom", None),
        ("INVALID_ARGUMENT: Used 104.03G of 95.74G hbm", None),
    ],
)
def test_what_a_refused_program_would_have_needed_is_read_from_the_refusal(message, gib):
    assert _needed_gib(message) == gib


def test_a_module_is_measured_by_all_that_is_known_of_it():
    found = measure(CompiledProgram(snippets.STEP, 3.0, 0.7, 60.0), Mesh())
    assert found["optimal"] == 0.7
    assert found["cycles"] == pytest.approx(3400 / 1e6)
    assert found["waited"] == pytest.approx((2 * 512 * 1024 + 3) / 1e9)
    assert found["unknown_kernels"] == 0  # its custom call is none of Pallas
    assert measure(CompiledProgram(snippets.LOOPS, 3.0, 0.7, 60.0), Mesh())["unknown_loops"] == 1


def test_layers_are_added_along_a_line():
    few = {"hbm_gib": 3.0, "roofline": 0.2, "compile_seconds": 9.0}
    more = {"hbm_gib": 5.0, "roofline": 0.3, "compile_seconds": 4.0}
    found = extrapolate(few, more, (2, 4, 16))
    assert found == pytest.approx({"hbm_gib": 17.0, "roofline": 0.9, "compile_seconds": 13.0})


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
