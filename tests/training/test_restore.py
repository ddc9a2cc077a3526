"""What is saved on one mesh is restored on others: 8, 2 and 1 devices, 1 and 2 processes."""

import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from training.saved import abstract, bits, meta_of, put, trees

from ttoaa.model.noise import unit_noise
from ttoaa.planning.noise import row_keys
from ttoaa.training.checkpoint_io import committed_steps, read_checkpoint, read_meta
from ttoaa.training.checkpoints import CheckpointWriter

TESTS = pathlib.Path(__file__).parents[1]


def start(module, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    return subprocess.Popen(
        [sys.executable, "-m", f"training.{module}", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told_by(process):
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, out + errors
    return json.loads(out.splitlines()[-1])


def restored_here(folder, step):
    """On this process's one device."""
    params, opt = trees(step)
    found = read_checkpoint(folder, step, params=abstract(params), opt=abstract(opt))
    return bits((found["params"], found["opt"])) == bits((params, opt))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Begun together, as most of their time is start-up: 8 devices, and a pair of processes."""
    folder = tmp_path_factory.mktemp("restore")
    writer = CheckpointWriter(folder / "pair")
    for step in (3, 12):
        writer.save(step, *put(trees(step)), meta_of(step))
    writer.finish()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mesh = start("on_mesh", folder / "mesh")
    pair = [start("in_pairs", folder / "pair", number, port) for number in (0, 1)]
    yield folder, mesh, pair
    for process in (mesh, *pair):
        process.kill()


def test_a_sharded_checkpoint_on_other_meshes(processes):
    folder, mesh, _ = processes
    told = told_by(mesh)
    assert told["prints"] == [], "fingerprints are those of the array as one row"
    assert not told["gathers"] and told["temporary"] < 3, "of one device's share"
    assert told["restored"] == dict.fromkeys(["4x2", "2x4", "8x1", "2x1", "1x1"], True)
    assert restored_here(folder / "mesh", 12)
    flips = told["flips"]
    assert not any("WRONG" in found for found in flips.values()), flips
    assert set(flips["meta/metadata"]) == {"damaged"}
    for item in ("params", "opt"):
        assert any("damaged" in found for file, found in flips.items() if file.startswith(item))


def test_two_processes_restore_what_one_saved_and_the_other_way_round(processes):
    folder, _, pair = processes
    one, other = map(told_by, pair)
    assert one == other
    assert one["primary"] == 0 and one["gathered"] == ["", "é"]
    noise = np.asarray(unit_noise(jnp.asarray(row_keys(5, range(4))), 6, 8))
    halves = [hashlib.sha256(half.tobytes()).hexdigest() for half in np.split(noise, 2)]
    assert one["noise"] == halves, "each process draws the bits of one that has all rows"
    assert one["whole"] == [12, "é", True]
    assert one["damaged"] == [3, "é", True], "what one process finds damaged both pass over"
    assert (folder / "pair/damaged-12").is_dir()
    is_damage, text = one["machine"]
    assert not is_damage and "checkpoint 12" in text and "Input/output error" in text
    assert one["untouched"] == [3, 12]
    assert one["full"][1].startswith(f"{folder / 'pair'}: a checkpoint of step")
    assert one["left"] == committed_steps(folder / "pair") == [3, 30]
    assert restored_here(folder / "pair", 30)
    assert read_meta(folder / "pair", 30)["note"] == "of process 0"
