"""One run by one and two real processes on this machine, through the command itself."""

import json
import shutil
import sys

import numpy as np
import pytest
import studies
from training.processes import free_port, together

from ttoaa import train
from ttoaa.locks import exclusive_trainer as trainer_alone

STEPS = 8
GIN = f"""
Geometry.steps = {STEPS}
Training.checkpoint_every = {STEPS}
Training.validate_every = {STEPS}
planted/Planted.probe_steps = (3,)
ConstantLinear.peak = 1e-3
"""


@pytest.fixture(scope="module")
def study(corpus_prepare, corpus_folder, tmp_path_factory):
    """Makes a folder of the tiny study, and says how its control run is started."""
    root = tmp_path_factory.mktemp("processes")
    gin = studies.write_gin(root, corpus_prepare.source.paths)
    gin.write_text(gin.read_text() + GIN)

    def make(name):
        shutil.copytree(corpus_folder, root / name / "corpus")
        return root / name, (f"--gin_file={gin}", "--run=control")

    return make


@pytest.fixture(scope="module")
def run(study):
    """Trains with so many processes, of so many devices each; gives the run's folder."""

    def run(processes, devices, **layout):
        workdir, flags = study(f"{processes}x{devices}")
        command = [sys.executable, "-m", "ttoaa.train", f"--workdir={workdir}", *flags]
        command += [f"--gin_bindings=Layout.{axis} = {size}" for axis, size in layout.items()]
        if processes > 1:
            # As of a trainer that died elsewhere: the primary waits for it, and the others for it.
            path = workdir / "control/leases/trainer.0"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"owner": "gone", "stale": 5.0}))
            command += [f"--coordinator=localhost:{free_port()}", f"--num_processes={processes}"]
        numbers = [[f"--process_id={k}"] for k in range(processes)] if processes > 1 else [[]]
        told = together(
            [[*command, *number] for number in numbers],
            PYTHONPATH=studies.PYTHONPATH,
            XLA_FLAGS=studies.xla_flags(devices),
        )
        assert [code for code, _, _ in told] == [0] * processes, told
        return workdir / "control"

    return run


@pytest.fixture(scope="module")
def alone(study):
    """Records of the run by one process on one device."""
    workdir, flags = study("1x1")
    assert studies.main(train, workdir, *flags) == 0
    return studies.records(workdir / "control")


def test_several_are_refused_together_where_another_trains(study):
    workdir, flags = study("busy")
    command = [sys.executable, "-m", "ttoaa.train", f"--workdir={workdir}", *flags]
    command += [f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    with trainer_alone(workdir / "control"):
        told = together(
            [[*command, f"--process_id={k}"] for k in range(2)], PYTHONPATH=studies.PYTHONPATH
        )
    line = f"train: {workdir / 'control'} is being trained by "
    for code, _, err in told:
        assert code == 1 and line in err, told


def losses(records):
    """Of every step, of the validation before the first and after the last, of every probe."""
    names = ("loss", "validation_loss")
    found = [line[name] for line in records["metrics"] for name in names if name in line]
    assert len(found) == STEPS + 2 and len(records["probes"]) > 1
    return found + [loss for line in records["probes"] for loss in line["loss"]]


def targets(records):
    return [[count for _, count in line["arms"].values()] for line in records["arms"]]


def assert_same_losses(found, expected):
    """Sums over rows and width are taken in another order, last places come to differ.

    Losses are about 5.8, and eight small steps do not carry the difference far.
    """
    np.testing.assert_allclose(losses(found), losses(expected), rtol=2e-6)
    assert targets(found) == targets(expected)


def test_two_processes_give_the_bits_of_one_with_two_devices(run, alone):
    folders = run(2, 1, fsdp=2), run(1, 2, fsdp=2)
    found, single = map(studies.records, folders)
    assert found == single
    params = [studies.params(folder.parent, "control", STEPS) for folder in folders]
    assert studies.same_bits(*params)
    assert_same_losses(found, alone)
    # What is written once was written by one of them.
    lines = (folders[0] / "attempts.jsonl").read_text().splitlines()
    assert {json.loads(line)["start"] for line in lines} == {0}
    assert len(list((folders[0] / "tensorboard").iterdir())) == 1
