"""The launchers' installer, with a stand-in for Python: when it installs, and what it leaves."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FAKE_PYTHON = """#!/bin/bash
echo "$@" >> "$(dirname "$0")/calls"
[[ "$*" != *">= (3, 12)"* ]] || exit "${FAKE_NEW:-1}"
[[ "$*" != *install* ]] || exit "${FAKE_CODE:-0}"
"""


class Checkout:
    """A folder with the launchers, and a .venv/ whose Python only writes down its arguments."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("launch", "constraints"):
            shutil.copytree(ROOT / name, folder / name)
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        self.bin = folder / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        self.script("python", FAKE_PYTHON)

    def script(self, name, text):
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def shell(self, command, **environment):
        script = f'set -euo pipefail; source "{self.folder}/launch/common.sh"; {command}'
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", **environment}
        return subprocess.run(
            ["bash", "-c", script], env=environment, cwd="/", capture_output=True, text=True
        )

    def installs(self):
        calls = (self.bin / "calls").read_text().splitlines()
        return [call.split()[-1] for call in calls if " install " in call]


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "a folder with blanks"
    folder.mkdir()
    return Checkout(folder)


def test_installs_once(checkout):
    assert checkout.shell("install_ttoaa").returncode == 0
    again = checkout.shell("install_ttoaa")
    assert again.returncode == 0 and "is complete" in again.stdout
    assert checkout.installs() == ["."]


def test_each_extra_is_installed_for_itself(checkout):
    checkout.shell("install_ttoaa; install_ttoaa test; install_ttoaa test")
    assert checkout.installs() == [".", ".[test]"]


def test_extras_can_be_named_where_there_is_no_accelerator(checkout):
    for extras, installed in ((["cuda13,wandb"], ".[cuda13,wandb]"), ([], ".")):
        command = f'bash "{checkout.folder}/launch/install.sh" {" ".join(extras)}'
        assert checkout.shell(command).returncode == 0
        assert checkout.installs()[-1] == installed


def test_changed_requirements_are_installed_again(checkout):
    checkout.shell("install_ttoaa")
    with open(checkout.folder / "setup.py", "a") as file:
        file.write("# another bound\n")
    checkout.shell("install_ttoaa")
    assert checkout.installs() == [".", "."]


def test_a_moved_checkout_is_installed_again(checkout):
    checkout.shell("install_ttoaa")
    moved = checkout.folder.rename(checkout.folder.with_name("elsewhere"))
    checkout.folder, checkout.bin = moved, moved / ".venv" / "bin"
    checkout.shell("install_ttoaa")
    assert checkout.installs() == [".", "."]


def test_a_failed_installation_says_so_and_is_tried_again(checkout):
    failed = checkout.shell("install_ttoaa", FAKE_CODE="3")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("bash: the installation failed, see ")
    assert checkout.shell("install_ttoaa").returncode == 0
    assert checkout.installs() == [".", "."]


@pytest.mark.parametrize("pythons", [[], ["python3.11", "python3"]], ids=["none", "too-old"])
def test_a_machine_without_a_fitting_python_is_told_in_one_line(checkout, tmp_path, pythons):
    shutil.rmtree(checkout.folder / ".venv")
    checkout.bin = tmp_path / "bin"
    checkout.bin.mkdir()
    for name in pythons:
        checkout.script(name, "#!/bin/bash\nexit 1\n")
    for tool in ("bash", "cat", "dirname", "basename"):
        (checkout.bin / tool).symlink_to(shutil.which(tool))
    told = checkout.shell("install_ttoaa", PATH=str(checkout.bin))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.count("\n") == 1 and "needs Python 3.11, 3.12 or 3.13" in told.stderr
    assert not (checkout.folder / ".venv").exists()


def test_a_venv_of_another_python_is_not_touched(checkout):
    checkout.script("python", "#!/bin/bash\nexit 1\n")
    told = checkout.shell("install_ttoaa")
    assert told.returncode == 1 and "remove that folder" in told.stderr
    assert (checkout.bin / "python").exists()


@pytest.mark.parametrize(("new", "file"), [("0", "jax-0.10.txt"), ("1", "jax-0.12.txt")])
def test_the_versions_are_those_tested_with_this_python(checkout, new, file):
    assert checkout.shell("install_ttoaa", FAKE_NEW=new).returncode == 0
    calls = (checkout.bin / "calls").read_text()
    assert f"--constraint {checkout.folder}/constraints/{file} --editable ." in calls


def test_other_constraints_or_none(checkout, tmp_path):
    for value in ("none", ""):
        assert checkout.shell("install_ttoaa", CONSTRAINTS=value).returncode == 0
    assert checkout.installs() == ["."]
    assert "--constraint" not in (checkout.bin / "calls").read_text()
    (tmp_path / "mine.txt").write_text("jax==0.11.2\n")
    assert checkout.shell("install_ttoaa", CONSTRAINTS=f"{tmp_path}/mine.txt").returncode == 0
    assert f"--constraint {tmp_path}/mine.txt" in (checkout.bin / "calls").read_text()
    wrong = checkout.shell("install_ttoaa", CONSTRAINTS="nothing.txt")
    assert wrong.returncode == 1
    assert wrong.stderr == "bash: there is no file CONSTRAINTS=nothing.txt\n"


def test_changed_constraints_are_installed_again(checkout):
    checkout.shell("install_ttoaa")
    with open(checkout.folder / "constraints/jax-0.12.txt", "a") as file:
        file.write("# another version\n")
    checkout.shell("install_ttoaa")
    assert checkout.installs() == [".", "."]


@pytest.mark.parametrize(
    ("lists", "extra"),
    [
        ("580.65.06, 9.0", "cuda13"),
        ("610.12, 12.0\n610.12, 12.0", "cuda13"),
        ("580.65.06, 7.0", "cuda12"),
        ("550.54.15, 9.0", "cuda12"),
        ("No devices were found", ""),
    ],
)
def test_a_gpu_asks_for_the_cuda_that_its_driver_runs(checkout, lists, extra):
    checkout.script("nvidia-smi", f"#!/bin/bash\necho '{lists}'\n")
    assert checkout.shell("accelerator").stdout.strip() == extra


def test_a_driver_that_fails_is_no_gpu(checkout):
    checkout.script("nvidia-smi", "#!/bin/bash\necho 'GPU access blocked' >&2; exit 9\n")
    found = checkout.shell("accelerator")
    assert (found.returncode, found.stdout) == (0, "")


def test_a_tpu_asks_for_its_extra(checkout):
    found = checkout.shell("accelerator", TPU_ACCELERATOR_TYPE="v5litepod-1")
    assert found.stdout.strip() == "tpu"
