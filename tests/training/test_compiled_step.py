import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import studies
from training import layouts
from training.conftest import GEOMETRY, MODEL, TRAINING, make_program

from ttoaa.model.compute_config import Execution
from ttoaa.model.noise import unit_noise
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.planning.noise import row_keys
from ttoaa.training.step import CompiledStep

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def told():
    """{layout: what three steps gave on it}, on 1, 2 or 8 fake devices."""
    command = [sys.executable, "-m", "training.layouts"]
    environment = {**os.environ, "XLA_FLAGS": studies.xla_flags(8)}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


EXACT = [name for name, case in layouts.CASES.items() if len(case) == 2]


@pytest.mark.parametrize("name", EXACT[1:])
def test_every_layout_gives_the_same_losses(told, name):
    """Sums of float32 in another order, 1e-7 each, and three small updates: 1e-5 bounds them."""
    for ours, one in zip(told[name]["metrics"], told["1"]["metrics"], strict=True):
        assert ours.keys() == one.keys()
        for metric in one:
            np.testing.assert_allclose(ours[metric], one[metric], rtol=1e-5, err_msg=metric)
    np.testing.assert_allclose(told[name]["scores"], told["1"]["scores"], rtol=1e-5)


def test_bfloat16_strays_by_its_rounding_alone(told):
    """Products round to 8 bits, so 2e-2; what is summed or kept is float32 all the same."""
    assert told["8 bfloat16"]["types"] == ["float32", "int32"]
    for ours, exact in zip(told["8 bfloat16"]["metrics"], told["1"]["metrics"], strict=True):
        np.testing.assert_allclose(ours["loss"], exact["loss"], rtol=2e-3)
        np.testing.assert_allclose(ours["grad_norm"], exact["grad_norm"], rtol=2e-2)
        np.testing.assert_allclose(ours["arm_loss"], exact["arm_loss"], rtol=1e-2)
        assert ours["loss"] != exact["loss"] and ours["arm_targets"] == exact["arm_targets"]


@pytest.mark.parametrize("name", layouts.CASES)
def test_noise_has_the_same_bits_on_every_layout(told, name):
    """As evaluation draws it: in another process, on one device."""
    drawn = unit_noise(jnp.asarray(row_keys(7, np.arange(16))), 12, layouts.MODEL.width)
    assert told[name]["noise"] == hashlib.sha256(np.asarray(drawn).tobytes()).hexdigest()


def test_a_step_with_noise_is_the_same_on_every_layout(told):
    one, *others = told["noisy"].values()
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-5)
    assert one[2] == 6


@pytest.mark.parametrize("name", layouts.CASES)
def test_initial_weights_are_the_same_bits_on_every_layout(told, name):
    assert told[name]["first"] == told["1"]["first"]


def test_weights_and_moments_lie_where_the_table_says(told):
    """Query [embed 32 / fsdp, heads 32 / tensor], down [hidden 48 / tensor, embed 32 / fsdp]."""
    for name, ((_, fsdp, tensor), *_) in layouts.CASES.items():
        assert told[name]["shard"] == [32 // fsdp, 32 // tensor], name
        assert told[name]["moment"] == [48 // tensor, 32 // fsdp], name


def test_an_optimizer_whose_state_is_not_shaped_like_the_parameters_is_sharded(told):
    one, eight = told["factored"]
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    assert one[2] < one[0]


def test_a_step_before_any_learns_something(told):
    losses = [line["loss"] for line in told["1"]["metrics"]]
    assert len(set(losses)) == 3 and all(3 < loss < 6 for loss in losses)


@pytest.mark.parametrize(
    ("rows", "match"),
    [(3, "microbatch 3 must divide the batch of 4 rows"), (8, "microbatch 8 must divide")],
)
def test_a_microbatch_that_does_not_divide_the_batch_is_refused(rows, match):
    with pytest.raises(ValueError, match=match):
        make_program(execution=Execution(microbatch=rows))


class Fake:
    """A device as meshes see it."""

    platform, device_kind, process_index = "cpu", "cpu", 0

    def __init__(self, number, slices):
        self.id, self.slice_index = number, number % slices


def fakes(count, slices=1):
    return [Fake(number, slices) for number in range(count)]


@pytest.mark.parametrize(
    ("layout", "asked", "rows"),
    [((1, 1, 1), None, 2), ((1, 1, 2), None, 2), ((8, 1, 1), None, 16), ((2, 2, 2), 8, 8)],
)
def test_rows_of_a_pass_on_cpu_are_two_a_device(layout, asked, rows):
    mesh = make_mesh(Layout(*layout), fakes(math.prod(layout)))
    step = CompiledStep(
        layouts.MODEL, layouts.TRAINING, layouts.GEOMETRY, Execution(microbatch=asked), mesh
    )
    assert (step.resolved.attention, step.resolved.microbatch) == ("xla", rows)


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (
            Layout(fsdp=3),
            "width 16 does not divide by the 3 devices of the fsdp axis",
        ),
        (Layout(tensor=3), "does not divide by the 3 devices of the tensor axis"),
        (Layout(data=3), "a batch of 4 rows cannot be cut into 3 equal parts"),
    ],
)
def test_what_a_mesh_cannot_cut_is_refused(layout, match):
    mesh = make_mesh(layout, fakes(3))
    with pytest.raises(ValueError, match=match):
        CompiledStep(MODEL, TRAINING, GEOMETRY, Execution(), mesh)


@pytest.mark.parametrize("layout", [Layout(data=4), Layout(fsdp=5), Layout(slices=3), Layout(2, 2)])
def test_a_layout_of_another_number_of_devices_is_refused(layout):
    with pytest.raises(ValueError, match="8 devices cannot be laid out as"):
        make_mesh(layout, fakes(8))


def test_the_data_axis_runs_across_slices():
    """8 devices of 2 slices, by turns: fsdp and tensor stay within one, data leads across."""
    mesh = make_mesh(Layout(fsdp=2, tensor=2, slices=2), fakes(8, slices=2))
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    np.testing.assert_array_equal(slices, [[[0, 0], [0, 0]], [[1, 1], [1, 1]]])


def test_slices_that_are_not_there_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"Layout\.slices=2") as error:
        make_mesh(Layout(slices=2), fakes(8, slices=4))
    assert "\n" not in str(error.value)


def test_random_numbers_do_not_depend_on_the_layout():
    assert jax.config.jax_threefry_partitionable
