"""A checkpoint is scored on any number of devices, whatever layout it was trained on."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import studies

from ttoaa.evaluation import checkpoint_outcomes
from ttoaa.evaluation.checkpoint_outcomes import layout_for, mesh_for
from ttoaa.model.sharding import Layout
from ttoaa.workdir import Workdir

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize(
    ("layout", "count", "shape"),
    [
        (Layout(), 1, (1, 1, 1)),
        (Layout(), 8, (8, 1, 1)),
        (Layout(fsdp=4), 8, (2, 4, 1)),
        (Layout(data=4, fsdp=16, slices=2), 8, (1, 8, 1)),
        (Layout(fsdp=16, tensor=4), 8, (1, 2, 4)),
        (Layout(fsdp=3), 8, (8, 1, 1)),
        (Layout(tensor=4), 6, (3, 1, 2)),
        (Layout(fsdp=2), 5, (5, 1, 1)),
    ],
)
def test_the_layout_of_training_goes_as_far_as_there_are_devices(layout, count, shape):
    assert layout_for(layout, count).shape(count) == shape


def test_a_device_that_another_process_holds_is_one_line(tiny_study, monkeypatch):
    def held():
        raise RuntimeError("Unable to initialize backend 'tpu': ABORTED: in use by pid 7\nmore")

    monkeypatch.setattr(checkpoint_outcomes.jax, "devices", held)
    with pytest.raises(ValueError, match=r"in use by pid 7: end the process .*JAX_PLATFORMS=cpu$"):
        mesh_for(tiny_study)


def test_several_processes_are_refused(tiny_study, monkeypatch):
    monkeypatch.setattr(checkpoint_outcomes.jax, "process_count", lambda: 16)
    with pytest.raises(
        ValueError, match=r"one process, .* devices belong to 16: .*TPU_PROCESS_BOUNDS"
    ):
        mesh_for(tiny_study)


@pytest.fixture(scope="module")
def told(finished, tmp_path_factory):
    """What on_devices.py prints, on 8 devices."""
    workdir = tmp_path_factory.mktemp("devices") / "work"
    studies.copy(finished[0], workdir, "plan", "control", "run")
    env = {**os.environ, "XLA_FLAGS": studies.xla_flags(8)}
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), str(HERE.parent)])
    command = [sys.executable, str(HERE / "on_devices.py"), str(workdir)]
    process = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_parameters_lie_as_the_layout_says(told):
    assert {name: (one["devices"], one["shard"]) for name, one in told.items()} == {
        "replicas": (8, [16, 320]),
        "fsdp and tensor": (8, [8, 160]),
        "a pod's": (8, [2, 320]),
    }


@pytest.mark.parametrize("name", ["replicas", "fsdp and tensor", "a pod's"])
def test_the_values_are_those_of_one_device(told, finished, name):
    table = pd.read_parquet(Workdir(finished[0]).table(*told[name]["work"], "planted"))
    assert told[name]["items"] == list(table["item"])
    np.testing.assert_allclose(told[name]["values"], table["value"], rtol=1e-5)
