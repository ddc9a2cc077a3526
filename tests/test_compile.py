import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import studies
from jax.experimental import topologies

from ttoaa import compile as command
from ttoaa.compilation import pods
from ttoaa.compile import estimate
from ttoaa.model.sharding import Layout

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments, devices=1):
    """The command as on a machine without libtpu."""
    hidden = "import runpy, sys; sys.modules['libtpu'] = None; "
    code = hidden + "runpy.run_module('ttoaa.compile', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", code, "--gin_file=configs/quickstart.gin", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": studies.xla_flags(devices)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_without_libtpu_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    gin = f"--gin_file={ROOT / 'configs/quickstart.gin'}"
    error = studies.main(command, tmp_path, gin, "--topology=v5p:4x4x4")
    assert error.endswith("pip install 'ttoaa[tpu]'") and "\n" not in error


def test_a_step_is_compiled_and_reported_in_one_line():
    changed = ("Layout.fsdp=2", "DecoderConfig.layers=1")
    bindings = [f"--gin_bindings={binding}" for binding in changed]
    done = run("--topology=cpu:2", *bindings, devices=2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["chips"], found["devices"]) == (2, 2)
    assert found["layout"] == {"data": 1, "fsdp": 2, "tensor": 1}
    assert found["layers_compiled"] == [1]
    # 6 x (parameters - input embedding) + 6 x layers x width x length, for each token.
    matrices = 4 * 128 * 128 + 3 * 128 * 384 + 4 * 128 + 128 + 128 * 1024
    assert found["model_flops_per_step"] == 16 * 256 * (6 * matrices + 6 * 128 * 256)
    # The chip is none of the table: nothing is made up.
    assert found["estimated_seconds"] is found["implied_mfu"] is found["fits"] is None
    assert found["hbm_gib"] > 0
    assert found["collective_gib"]["all-gather"] > 0


def test_scoring_is_compiled_likewise_and_fewer_layers_stand_for_all(tiny_study):
    whole = estimate(tiny_study, "cpu:1", evaluation=True)
    assert whole["program"] == "evaluation"
    # A pass of the job: eight short rows on a CPU, forward alone: 2 a weight.
    assert (whole["batch"], whole["execution"]["attention"]) == (8, "xla")
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 64 + 4 * 32) + 32 + 32 * 320
    assert whole["model_flops_per_step"] == 8 * 32 * (2 * matrices + 2 * 2 * 32 * 32)
    ranked = estimate(tiny_study, "cpu:1", evaluation=True, layers=1)
    assert (whole["layers_compiled"], ranked["layers_compiled"]) == ([2], [1, 2])
    assert ranked["hbm_gib"] == whole["hbm_gib"] > 0
    assert ranked["model_flops_per_step"] == whole["model_flops_per_step"]


def test_noise_is_reported_next_to_the_plain_step(tiny_study):
    small = dataclasses.replace(tiny_study.model, layers=1)
    found = estimate(dataclasses.replace(tiny_study, model=small), "cpu:1", noise=True)
    noisy = found["with_noise"]
    assert noisy["hbm_gib"] == pytest.approx(found["hbm_gib"], rel=0.1)
    assert noisy["ratios"]["xla_flops"] > 1 and noisy["ratios"]["estimated_seconds"] is None
    with pytest.raises(ValueError, match="--evaluation and --noise exclude each other"):
        estimate(tiny_study, "cpu:1", noise=True, evaluation=True)


def test_scoring_takes_the_layout_as_far_as_the_devices_go(tiny_study):
    cut = dataclasses.replace(tiny_study, layout=Layout(fsdp=4, tensor=2))
    with pytest.raises(ValueError, match="1 devices cannot be laid out"):
        estimate(cut, "cpu:1")
    found = estimate(cut, "cpu:1", evaluation=True, layers=1)
    assert found["layout"] == {"data": 1, "fsdp": 1, "tensor": 1}


def test_what_cannot_be_is_one_line(tiny_study):
    with pytest.raises(ValueError, match="CPU devices, not 99"):
        estimate(tiny_study, "cpu:99")
    three = dataclasses.replace(tiny_study, layout=Layout(fsdp=3))
    with pytest.raises(ValueError, match="1 devices cannot be laid out"):
        estimate(three, "cpu:1")


def test_a_topology_that_nobody_knows_is_named(monkeypatch):
    def unknown(**given):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Invalid TPU external name: TPU v9")

    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(pods.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(topologies, "get_topology_desc", unknown)
    with pytest.raises(ValueError, match=r"no topology 'v9:4x4' .*TPU v9.*v5p:4x4x4"):
        pods.devices("v9:4x4")
