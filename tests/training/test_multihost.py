import signal
import sys
import time

import absl.flags
import jax
import pytest
from absl.testing import flagsaver
from training.processes import free_port, together

from ttoaa.training import multihost

CLUSTER = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}

CHILD = """
import os, sys
from absl import app, flags
from ttoaa.training import multihost
import jax, numpy as np

def main(argv):
    do = argv[1]
    with multihost.exit_on_lone_failure("train", KeyError):
        try:
            multihost.initialize()
            multihost.initialize()
            print("primary" if multihost.primary() else "other", jax.process_count(), flush=True)
            work(do)
        except ValueError as error:
            sys.exit(f"train: {error}")

def work(do):
    mesh = jax.sharding.Mesh(jax.devices(), "d")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    x = jax.make_array_from_callback((2,), sharding, lambda index: np.ones(1, np.float32))
    add = jax.jit(lambda x: x + x.sum())
    mine = str(jax.process_index())
    for step in range(5 if do in ("end", "stop") else 10**6):
        x = add(x).block_until_ready()
        if step == 3 and mine in do:
            if "die" in do:
                os.kill(os.getpid(), 9)
            if "raise" in do:
                raise RuntimeError("the disk is gone")
            raise ValueError("no room in run/checkpoints")
    if do == "stop":
        sys.exit(143)

app.run(main)
"""


@pytest.fixture
def flags(monkeypatch):
    """Sets flags of ours for the test; nothing is ever joined."""
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: called.append((a, k)))

    def start(**values):
        with flagsaver.flagsaver(**values):
            multihost.initialize()
        return called

    with flagsaver.flagsaver():
        absl.flags.FLAGS.mark_as_parsed()
        yield start


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"coordinator": "a:1"}, "--num_processes and --process_id not given"),
        ({"num_processes": 2, "process_id": 0}, "belong together: --coordinator not given"),
        ({"num_processes": 2, "coordinator": "a:1"}, "belong together: --process_id not given"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "not one of 0 to 1"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "must be host:port"),
        ({"coordinator": ":99", "num_processes": 2, "process_id": 0}, "must be host:port"),
        ({"coordinator": "a:0", "num_processes": 2, "process_id": 0}, "must be host:port"),
        ({"coordinator": "a:65536", "num_processes": 2, "process_id": 0}, "must be host:port"),
    ],
)
def test_flags_that_do_not_belong_together_are_refused(flags, given, told):
    with pytest.raises(ValueError, match=told):
        flags(**given)


def test_flags_are_handed_to_jax_and_the_cluster_is_not_asked(flags, monkeypatch):
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    ((args, options),) = flags(coordinator="node-0:8476", num_processes=3, process_id=2)
    assert args == ("node-0:8476", 3, 2)
    assert options["cluster_detection_method"] == "deactivate"


def test_one_process_is_left_alone(flags, monkeypatch):
    assert flags() == []
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    assert flags(num_processes=1) == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert flags() == []
    assert multihost.primary()


def test_several_tasks_of_slurm_are_joined_as_jax_finds_them(flags, monkeypatch):
    for name, value in CLUSTER.items():
        monkeypatch.setenv(name, value)
    ((args, options),) = flags()
    assert args == () and options["cluster_detection_method"] is None
    # A batch script itself is no task.
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    assert len(flags()) == 1


@pytest.mark.parametrize(
    ("hosts", "slices", "joins"), [("a", "", 0), ("a,b", "", 1), ("a", "2", 1), ("a", "1", 0)]
)
def test_workers_of_a_tpu_slice_are_joined(flags, monkeypatch, hosts, slices, joins):
    from jax._src.clusters import cloud_tpu_cluster  # a process that is on no TPU VM acts as one

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    for name, value in {
        "TPU_WORKER_HOSTNAMES": hosts,
        "TPU_WORKER_ID": "0",
        "MEGASCALE_NUM_SLICES": slices,
        "MEGASCALE_SLICE_ID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    if not slices:
        monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value_from_metadata", lambda key: None)
    assert len(flags()) == joins


def test_a_jax_that_does_not_say_which_cluster_it_is_in_needs_the_flags(flags, monkeypatch):
    monkeypatch.delattr("jax._src.clusters.SlurmCluster")
    with pytest.raises(ValueError, match=r"pass --num_processes=1, or --coordinator"):
        flags()
    assert flags(num_processes=1) == []
    assert len(flags(coordinator="node-0:8476", num_processes=3, process_id=2)) == 1


def test_what_jax_says_of_the_cluster_comes_in_one_line(flags, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("Failed to recognize coordinator address node-0\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError) as error:
        flags(coordinator="node-0:8476", num_processes=3, process_id=2)
    told = "process 2 of 3 at node-0:8476: Failed to recognize coordinator address node-0"
    assert str(error.value) == told


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    """Runs two processes of the script and says of each: code, stdout, stderr, seconds of both."""
    script = tmp_path_factory.mktemp("distributed") / "child.py"
    script.write_text(CHILD)

    def run(do, processes=(0, 1)):
        began = time.monotonic()
        common = [sys.executable, script, do, f"--coordinator=localhost:{free_port()}"]
        common += ["--num_processes=2", *(["--join_timeout=1"] if len(processes) == 1 else [])]
        told = together([[*common, f"--process_id={process}"] for process in processes])
        return [(*one, time.monotonic() - began) for one in told]

    return run


def test_what_all_come_to_ends_as_usual(children):
    one, other = children("stop")
    assert (one[0], other[0]) == (143, 143)
    assert "primary 2" in one[1] and "other 2" in other[1]


@pytest.mark.parametrize("process", [0, 1])
def test_nobody_to_join_is_one_line(children, process):
    ((code, _, err, _),) = children("end", [process])
    assert code == 1
    lines = [line for line in err.splitlines() if "process" in line]
    assert len(lines) == 1 and f"process {process} of 2 at localhost" in lines[0]
    assert "the others did not join within 1 s" in lines[0]
    assert "Check failure" not in err


def test_a_killed_process_is_missed_within_seconds(children):
    (code, _, err, seconds), killed = children("die 1")
    assert killed[0] == -signal.SIGKILL
    assert code == 1 and seconds < 30
    assert "train: process 0: lost another process of the run" in err
    assert "start all of them again" in err


@pytest.mark.parametrize(("do", "told"), [("fail 1", "no room"), ("raise 1", "the disk is gone")])
def test_who_fails_alone_says_so_and_does_not_wait(children, do, told):
    one, other = children(do)
    assert other[0] == 1 and f"train: process 1: {told}" in other[2]
    assert ("Traceback" in other[2]) == (do == "raise 1")
    assert one[0] == 1 and "lost another process" in one[2]
    assert one[3] < 30


def test_without_process_0_the_others_end_too(children):
    """JAX itself may be the first to notice that the coordinator is gone; it aborts."""
    killed, (code, _, err, seconds) = children("die 0")
    assert killed[0] == -signal.SIGKILL
    assert code in (1, -signal.SIGABRT) and seconds < 30
    assert "lost another process of the run" in err or "another task died" in err


@pytest.mark.parametrize("error", [SystemExit("train: no"), ValueError("no"), KeyboardInterrupt()])
def test_one_process_alone_is_not_touched(error):
    with pytest.raises(type(error)) as raised, multihost.exit_on_lone_failure("train"):
        raise error
    assert raised.value is error
