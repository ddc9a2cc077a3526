import json
import os
import subprocess

import jax
import pytest

from ttoaa.model.sharding import Layout
from ttoaa.training import topology
from ttoaa.training.topology import pin_cores, provenance, split_cpu


@pytest.fixture
def no_pin(monkeypatch):
    monkeypatch.setenv("NPROC", "1")  # so that what pin_cores writes is taken back
    monkeypatch.delenv("NPROC")


def test_cores_are_those_of_the_run_that_is_continued(no_pin):
    assert pin_cores(7) == 7
    assert os.environ["NPROC"] == "7"


@pytest.mark.parametrize("recorded", [None, 0])
def test_a_new_run_takes_the_visible_cores(no_pin, recorded):
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert pin_cores(recorded) == visible


def test_the_environment_overrides(monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    assert pin_cores(7) == 3
    assert topology.topology()["cores"] == 3


def test_provenance_is_json_and_names_versions(monkeypatch):
    told = json.loads(json.dumps(provenance()))
    assert told["packages"]["jax"] == jax.__version__
    assert told["topology"] == topology.topology()
    assert len(told["git_commit"]) in (0, 40)


def test_the_commit_is_the_packages_own_and_not_that_of_a_repository_around_it(
    monkeypatch, tmp_path
):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "one")
    (tmp_path / "setup.py").touch()
    for package, own in ((tmp_path, True), (tmp_path / "venv/lib/site-packages", False)):
        monkeypatch.setattr(topology, "__file__", str(package / "ttoaa/training/topology.py"))
        package.mkdir(parents=True, exist_ok=True)
        told = provenance()
        assert (len(told["git_commit"]) == 40) == told["git_dirty"] == own
    (package / "setup.py").touch()
    assert provenance()["git_commit"] == ""


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["git_commit"] == ""


@pytest.fixture
def asked(monkeypatch):
    """What split_cpu asks JAX for."""
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    return found


@pytest.mark.parametrize(
    ("cores", "batch", "layout", "recorded", "devices"),
    [
        (2, 16, Layout(), None, 2),
        (16, 16, Layout(), None, 8),
        (6, 16, Layout(), None, 4),
        (4, 7, Layout(), None, 1),
        (8, 16, Layout(tensor=2), None, 8),
        (2, 16, Layout(fsdp=8), None, 8),
        (8, 16, Layout(data=2, tensor=2), None, 4),
        (8, 16, Layout(), 2, 2),
        (8, 16, Layout(fsdp=4), 2, 8),
        (8, 16, Layout(data=2), 4, 2),
    ],
)
def test_a_cpu_is_as_many_devices_as_the_rows_go_over(
    monkeypatch, asked, cores, batch, layout, recorded, devices
):
    monkeypatch.setenv("NPROC", str(cores))
    split_cpu(batch, layout, recorded)
    assert asked == {"jax_num_cpu_devices": devices}


def test_what_the_environment_says_of_devices_stands(monkeypatch, asked):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    split_cpu(16, Layout())
    assert asked == {}
