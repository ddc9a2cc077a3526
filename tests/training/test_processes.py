"""One run by one, two and four real processes on this machine, through the command itself."""

import shutil
import sys

import numpy as np
import pytest
import studies

from training.processes import free_port, together

STEPS = 8
GIN = f"""
Geometry.steps = {STEPS}
Training.checkpoint_every = 4
Training.validate_every = 4
planted/Planted.probe_steps = (0, 3, {STEPS})
ConstantLinear.peak = 1e-3
"""


@pytest.fixture(scope="module")
def train(corpus_prepare, corpus_folder, tmp_path_factory):
    """Trains the tiny study on `processes` times `devices` devices; gives its folder."""
    root = tmp_path_factory.mktemp("processes")
    gin = studies.write_gin(root, corpus_prepare.source.paths)
    gin.write_text(gin.read_text() + GIN)

    def train(processes, devices, **layout):
        workdir = root / f"{processes}x{devices}"
        shutil.copytree(corpus_folder, workdir / "corpus")
        command = [sys.executable, "-m", "ttoaa.train", f"--workdir={workdir}", "--run=control"]
        command += [f"--gin_file={gin}"]
        command += [f"--gin_bindings=Layout.{axis} = {size}" for axis, size in layout.items()]
        if processes > 1:
            command += [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
        each = [f"--process_id={k}" for k in range(processes)] if processes > 1 else ["--seed=0"]
        told = together(
            [[*command, more] for more in each],
            PYTHONPATH=str(studies.HERE),
            XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        )
        assert [code for code, _, _ in told] == [0] * processes, told
        return workdir

    return train


@pytest.fixture(scope="module")
def alone(train):
    """The run of one process on one device."""
    return train(1, 1)


def losses(records):
    names = ("loss", "validation_loss")
    return [line[name] for line in records["metrics"] for name in names if name in line]


def targets(records):
    return [[count for _, count in line["arms"].values()] for line in records["arms"]]


@pytest.mark.parametrize(("processes", "layout"), [(2, {}), (4, {"fsdp": 2})])
def test_processes_give_what_one_process_gives(train, alone, processes, layout):
    """On the same mesh to the bit; other devices take sums in another order."""
    together, single = train(processes, 1, **layout), train(1, processes, **layout)
    found = studies.records(together / "control")
    assert found == studies.records(single / "control")
    params = [studies.params(workdir, "control", STEPS) for workdir in (together, single)]
    assert studies.same_bits(*params)

    expected = studies.records(alone / "control")
    assert len(losses(found)) == STEPS + 3
    # Losses of about 5.8; in eight small steps weights come to differ in their last places.
    np.testing.assert_allclose(losses(found), losses(expected), rtol=2e-6)
    assert targets(found) == targets(expected)
