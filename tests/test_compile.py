import json
import os
import pathlib
import subprocess
import sys

import pytest

from ttoaa.compilation import pods

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments, devices=1, libtpu=False):
    hide = "" if libtpu else "sys.modules['libtpu'] = None; "
    code = f"import runpy, sys; {hide}runpy.run_module('ttoaa.compile', run_name='__main__')"
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.run(
        [sys.executable, "-c", code, "--gin_file=configs/quickstart.gin", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_without_libtpu_one_line_says_what_to_install():
    done = run("--topology=v5p:4x4x4")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'ttoaa[tpu]'")
    assert "Traceback" not in done.stderr


def test_a_step_is_compiled_and_reported_in_one_line(tmp_path):
    layout = ["--gin_bindings=Layout.fsdp=2", "--gin_bindings=Layout.tensor=1"]
    cache = f"--cache={tmp_path}"
    done = run("--topology=cpu:4", cache, "--layers=1", *layout, devices=4)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["chips"], found["devices"]) == (4, 4)
    assert found["layout"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert found["layers_compiled"] == [1, 2]
    # 6 x (parameters - input embedding) + 6 x layers x width x length, for each token.
    matrices = 3 * (4 * 128 * 128 + 3 * 128 * 384 + 4 * 128) + 128 + 128 * 1024
    flops = 16 * 256 * (6 * matrices + 6 * 3 * 128 * 256)
    assert found["model_flops_per_step"] == flops
    # The chip is none of the table: nothing is made up.
    assert found["estimated_seconds"] is found["implied_mfu"] is found["fits"] is None
    assert found["hbm_gib"] > 0
    assert found["collective_gib"]["all-gather"] > 0
    assert len(list(tmp_path.glob("*.json.gz"))) == 2
    for path in tmp_path.glob("*.json.gz"):
        os.utime(path, (0, 0))
    assert run("--topology=cpu:4", cache, "--layers=1", *layout, devices=4).stdout == done.stdout
    assert all(path.stat().st_mtime == 0 for path in tmp_path.glob("*.json.gz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--topology=v5p:4x4x4"),
        (["--topology=cpu:3"], "there are 1 CPU devices, not 3"),
        (["--topology=cpu:1", "--gin_bindings=Layout.fsdp=3"], "1 devices cannot be laid out"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, message):
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_topology_that_nobody_knows_is_named(monkeypatch):
    import jax
    from jax.experimental import topologies

    def unknown(**given):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: Invalid TPU external name: TPU v9")

    monkeypatch.setattr(pods.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(topologies, "get_topology_desc", unknown)
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setenv(name, "1")
    for name in ("TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.setenv(name, "")
    with pytest.raises(ValueError, match=r"no topology 'v9:4x4' .*TPU v9.*v5p:4x4x4"):
        pods.devices("v9:4x4")
