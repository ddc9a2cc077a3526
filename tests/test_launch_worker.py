"""The script that keeps one command running on each machine, and local processes."""

import shlex
import time

import pytest
from launch_tools import ROOT, TRAIN, Tools


class Worker(Tools):
    """A copy of the launchers on a machine whose systemctl, sudo and metadata are stand-ins."""

    def __init__(self, folder, machines):
        super().__init__(folder)
        self.script("sudo", '#!/bin/bash\n"$@"\n')
        self.script("curl", f"#!/bin/bash\necho {','.join(machines)}\n")
        self.script(
            "systemctl",
            '#!/bin/bash\ncase "$1" in is-active) [[ -e "$FAKES/active" ]] ;;\n'
            'start) touch "$FAKES/active" ;; disable) rm "$FAKES/active" ;; esac\n',
        )

    def work(self, *arguments):
        unit = str(self.folder / "unit")
        return self.launch("worker.sh", *arguments, UNIT=unit)


def test_a_machine_keeps_one_command_running(tmp_path):
    worker = Worker(tmp_path / "worker", ["a"])
    assert worker.work("start", *TRAIN[1:]).returncode == 0
    unit = (worker.folder / "unit").read_text()
    assert "Restart=on-failure" in unit and "TimeoutStopSec=120" in unit
    assert f"EnvironmentFile=-{worker.folder}/ttoaa/job.env" in unit
    job = (worker.folder / "ttoaa/job.sh").read_text().splitlines()
    assert shlex.split(job[-1])[2:] == list(TRAIN[1:]) and len(job) == 2
    assert worker.work("start", *TRAIN[1:]).stdout == "worker.sh: runs already\n"
    other = worker.work("start", "evaluate", "--workdir=/w")
    assert other.returncode == 1 and "stop it first" in other.stderr
    assert worker.work("stop").returncode == 0
    assert worker.work("start", "evaluate", "--workdir=/w").returncode == 0


@pytest.mark.parametrize(
    ("command", "machines", "bounded"),
    [("evaluate", "ab", True), ("evaluate", "a", False), ("train", "ab", False)],
)
def test_only_training_uses_the_whole_slice(tmp_path, command, machines, bounded):
    worker = Worker(tmp_path / "worker", machines)
    worker.work("start", command, "--workdir=/w")
    text = (worker.folder / "ttoaa/job.sh").read_text()
    assert ("TPU_PROCESS_BOUNDS=1,1,1" in text) is bounded


def test_a_machine_installs_further_packages(tmp_path):
    worker = Worker(tmp_path / "worker", ["a"])
    worker.script("uv", '#!/bin/bash\nprintf "%s " "$@" >>"$FAKES/installed"\n')
    assert worker.work("install", "", "wandb").returncode == 0
    assert " jax[tpu] gcsfs wandb " in (worker.folder / "installed").read_text()


PROCESS = """#!/bin/bash
trap 'echo stopped; exit 143' TERM
echo "$CUDA_VISIBLE_DEVICES $*"
[[ "$*" == *--process_id=1* || -e "$FAKES/works" ]] || { touch "$FAKES/works"; exit 1; }
for _ in {1..60000}; do sleep 0.01; done
"""


def test_local_processes_start_once_restart_and_stop(tmp_path, request):
    tools = Worker(tmp_path / "tools", ["a"])
    tools.script("ttoaa/.venv/bin/python", PROCESS)
    logs = tools.folder / "logs"

    def launch(action, *job):
        place = (f"--logs={logs}", "--gpus=yes")
        return tools.launch("processes.sh", action, "s", *place, *job, RESTART_SECONDS="0")

    request.addfinalizer(lambda: launch("stop"))  # also if the test fails

    def log(number):
        path = logs / f"s-{number}.log"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(condition):
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end, (log(0), log(1))
            time.sleep(0.01)

    launch("start", *TRAIN)
    wait_for(lambda: (len(log(0)), len(log(1))) == (3, 1))  # start, failure, restart; start
    assert launch("start", *TRAIN).stdout == "0: runs already\n1: runs already\n"
    assert launch("status").stdout == "0: runs\n1: runs\n"
    other = launch("start", "--", "evaluate", "--workdir=/w")
    assert (other.returncode, other.stdout) == (1, "") and other.stderr.count("\n") == 1
    assert other.stderr.startswith("s: stop it first, ") and "-m ttoaa train " in other.stderr
    first = next(line for line in log(1) if "--process_id" in line)
    assert first.startswith("1 -m ttoaa train") and first.endswith(
        "--num_processes=2 --process_id=1"
    )
    launch("stop")
    wait_for(lambda: launch("status").stdout == "0: ended\n1: ended\n")
    assert (len(log(0)), len(log(1))) == (4, 2)
    assert [log(k)[-1] for k in (0, 1)] == ["stopped"] * 2


def test_a_stop_between_two_attempts_is_not_lost(tmp_path):
    tools = Tools(tmp_path / "tools")
    tools.script("sleep", '#!/bin/bash\nkill -TERM "$PPID"\n')
    tools.script("job", "#!/bin/bash\necho started\nexit 1\n")
    restart = str(ROOT / "launch/restart.sh")
    done = tools.run(restart, str(tmp_path / "pid"), "job")
    assert done.stdout.splitlines() == ["started", "restart.sh: ended with status 1"]
