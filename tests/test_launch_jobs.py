"""The launchers of jobs, with stand-ins for the tools of clouds and clusters.

A stand-in refuses commands and flags that it does not know, and remembers what was created.
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

PLACE = "--project --zone"
MACHINE = (
    "--machine-type --maintenance-policy --scopes --image-project --image-family --boot-disk-size "
    "--provisioning-model --instance-termination-action"
)
COMMANDS = {
    "gcloud config get-value": "",
    "gcloud compute instances describe": PLACE,
    "gcloud compute instances list": "--project --zones --filter --format",
    "gcloud compute instances create": f"{PLACE} {MACHINE}",
    "gcloud compute instances delete": f"{PLACE} --quiet",
    "gcloud compute resource-policies describe": "--project --region",
    "gcloud compute resource-policies delete": "--project --region --quiet",
    "gcloud compute resource-policies create workload-policy": (
        "--project --region --type --accelerator-topology"
    ),
    "gcloud compute instance-templates describe": "--project --region",
    "gcloud compute instance-templates delete": "--project --region --quiet",
    "gcloud compute instance-templates create": f"--project --instance-template-region {MACHINE}",
    "gcloud compute instance-groups managed describe": PLACE,
    "gcloud compute instance-groups managed delete": f"{PLACE} --quiet",
    "gcloud compute instance-groups managed list-instances": f"{PLACE} --format",
    "gcloud compute instance-groups managed wait-until": f"{PLACE} --stable",
    "gcloud compute instance-groups managed create": (
        f"{PLACE} --size --target-size-policy-mode --default-action-on-vm-failure --template "
        "--workload-policy"
    ),
    "gcloud compute scp": PLACE,
    "gcloud compute ssh": f"{PLACE} --command",
    "gcloud compute tpus queued-resources describe": f"{PLACE} --format",
    "gcloud compute tpus queued-resources list": f"{PLACE} --filter --format",
    "gcloud compute tpus queued-resources create": (
        f"{PLACE} --node-id --accelerator-type --runtime-version --spot"
    ),
    "gcloud compute tpus queued-resources delete": f"{PLACE} --force --quiet",
    "gcloud compute tpus tpu-vm scp": f"{PLACE} --worker",
    "gcloud compute tpus tpu-vm ssh": f"{PLACE} --worker --command",
    "gcluster job submit": (
        "--name --image --compute-type --topology --num-slices --mount --restarts --grace-period "
        "--command --queue --cluster --location --project"
    ),
    "gcluster job logs": "--cluster --location --project",
    "gcluster job cancel": "--cluster --location --project",
    "kubectl get jobset": "",
    "kubectl get pods": "--selector --output",
    "docker build": "--file --build-arg --tag",
    "docker push": "",
    "sbatch": (
        "--job-name --nodes --gpus-per-node --ntasks-per-node --cpus-per-task --time --signal "
        "--requeue --open-mode --output --partition --account --qos"
    ),
    "squeue": "--user --name --noheader",
    "scancel": "--user --name",
    "scontrol requeue": "",
    "git -C": "--format --output",
}
"""The flags of gcloud, gcluster (Cluster Toolkit of June 2026) and SLURM that launchers may use."""

STAND_IN = r"""#!/bin/bash
words="${0##*/}" flags=()
for word; do if [[ "$word" == --* ]]; then flags+=("$word"); else words+=" $word"; fi; done
printf '%s\0' "${0##*/}" "$@" $'\n' >>"$FAKES/calls"
while IFS='|' read -r command allowed; do
  [[ "$words " == "$command "* ]] && known=yes && break
done <"$FAKES/commands"
[[ -n "$known" ]] || { echo "no command: $words" >&2; exit 2; }
for flag in "${flags[@]}"; do
  [[ " $allowed " == *" ${flag%%=*} "* ]] || { echo "$command: no flag: $flag" >&2; exit 2; }
done
case "$command" in
  *instance-groups*) thing=group ;;
  *resource-policies*) thing=policy ;;
  *instance-templates*) thing=template ;;
  *) thing=machine ;;
esac
case "$command" in
  *'queued-resources describe')
    [[ " ${flags[*]}" != *--format* ]] || { cat "$FAKES/machine"; exit; }
    [[ -e "$FAKES/machine" ]] ;;
  *describe | *'get jobset') [[ -e "$FAKES/$thing" ]] ;;
  *create* | *submit) echo ACTIVE >"$FAKES/$thing" ;;
  *delete | *'job cancel') rm "$FAKES/$thing" ;;
  squeue) cat "$FAKES/queue" 2>/dev/null || true ;;
  sbatch) cat ;;
  *list-instances) printf 's-ab1c\ns-de2f\n' ;;
  *list) cat "$FAKES/group" "$FAKES/machine" 2>/dev/null; true ;;
  *ssh) [[ "${flags[*]}" != *'worker.sh status'* ]] || echo "host: is=$(cat "$FAKES/job")" ;;
  *get-value) echo my-project ;;
esac
"""


class Tools:
    """A folder of stand-ins, in front of the system's programs; `calls` are the words of each."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        lines = sorted(((k, v) for k, v in COMMANDS.items()), key=lambda pair: -len(pair[0]))
        (folder / "commands").write_text("".join(f"{k}|{v}\n" for k, v in lines))
        for name in {command.split()[0] for command in COMMANDS}:
            self.script(name, STAND_IN)

    def script(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    @property
    def environment(self):
        path = f"{self.folder}:/usr/bin:/bin"
        return {"PATH": path, "FAKES": str(self.folder), "HOME": str(self.folder)}

    def run(self, *command, **environment):
        return subprocess.run(
            ["bash", *command],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def launch(self, script, *arguments, **environment):
        return self.run(str(ROOT / "launch" / script), *arguments, **environment)

    @property
    def calls(self):
        path = self.folder / "calls"
        text = path.read_text() if path.exists() else ""
        return [call.split("\0")[:-1] for call in text.split("\n\0") if call]

    def clear(self):
        (self.folder / "calls").unlink(missing_ok=True)

    def calls_of(self, *words):
        """The calls that contain these words."""
        return [call for call in self.calls if all(word in call for word in words)]


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path / "tools")


ONE = ("--zone=us-east5-a",)
SLICE = (
    *ONE,
    "--topology=2x4",
    "--hosts=2",
    "--nfs=10.0.0.2:/s",
    "--machine_type=ct6e-standard-4t",
)
TRAIN = ("--", "train", "--workdir=/studies/mine", "--gin_bindings=Study.name = 'it is $HOME'")
CONTAINER = ("--image=r/ttoaa:1", "--mount=studies:/studies:rw")


def test_a_dry_run_without_gcloud_asks_for_the_project(tools):
    tools.script("gcloud", "#!/bin/bash\nexit 127\n")
    done = tools.launch("compute_engine.sh", "create", "s", *ONE, "--dry_run")
    assert (done.returncode, "pass --project=" in done.stderr) == (1, True)
    done = tools.launch("compute_engine.sh", "create", "s", *ONE, "--dry_run", "--project=mine")
    assert done.returncode == 0 and "--project=mine" in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("compute_engine.sh", ("create", "s", *SLICE, "--spot=yes")),
        ("compute_engine.sh", ("install", "s", *SLICE)),
        ("queued_tpu.sh", ("create", "s", *ONE)),
        ("queued_tpu.sh", ("start", "s", *ONE, *TRAIN)),
        ("gke.sh", ("image", "s", *CONTAINER)),
        ("gke.sh", ("status", "s")),
        ("gke.sh", ("logs", "s", "--cluster=c", "--location=l", "--project=p")),
        ("slurm.sh", ("start", "s", *TRAIN)),
        ("slurm.sh", ("stop", "s")),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{len(value)}",
)
def test_a_dry_run_calls_nothing_and_prints_what_would_run(tools, script, arguments):
    at = arguments.index("--") if "--" in arguments else len(arguments)
    shown = tools.launch(script, *arguments[:at], "--dry_run", *arguments[at:])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert not [call for call in tools.calls if "get-value" not in call]
    tools.clear()
    assert tools.run("-euo", "pipefail", "-c", shown.stdout).returncode == 0
    printed = sorted(tools.calls)
    for path in ("machine", "group", "policy", "template", "calls"):
        (tools.folder / path).unlink(missing_ok=True)
    done = tools.launch(script, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert printed and sorted(c for c in tools.calls if "get-value" not in c) == printed


@pytest.mark.parametrize(
    ("script", "arguments", "things"),
    [
        ("compute_engine.sh", ONE, 1),
        ("compute_engine.sh", SLICE, 3),
        ("queued_tpu.sh", ONE, 1),
    ],
    ids=["machine", "slice", "queued"],
)
def test_machines_are_created_once_and_deleted_once(tools, script, arguments, things):
    for action, verb in (("create", "create"), ("delete", "delete")):
        for _ in range(2):
            done = tools.launch(script, action, "s", *arguments)
            assert done.returncode == 0, done.stderr
        assert len(tools.calls_of(verb)) == things


def test_a_slice_is_one_group_in_the_shape_of_its_policy(tools):
    tools.launch("compute_engine.sh", "create", "s", *SLICE, "--spot=yes")
    (policy,) = tools.calls_of("workload-policy")
    assert "--accelerator-topology=2x4" in policy and "--region=us-east5" in policy
    (template,) = tools.calls_of("instance-templates", "create")
    assert {"--machine-type=ct6e-standard-4t", "--provisioning-model=SPOT"} < set(template)
    (group,) = tools.calls_of("instance-groups", "create")
    path = "projects/my-project/regions/us-east5"
    assert {f"--workload-policy={path}/resourcePolicies/s", "--size=2"} < set(group)
    assert f"--template={path}/instanceTemplates/s" in group


@pytest.mark.parametrize(
    ("script", "arguments", "machines"),
    [("compute_engine.sh", SLICE, ["s-ab1c", "s-de2f"]), ("queued_tpu.sh", ONE, ["s"])],
)
def test_all_machines_get_the_checkout_and_the_whole_command(tools, script, arguments, machines):
    tools.launch(script, "install", "s", *arguments)
    copied = [word for call in tools.calls_of("scp") for word in call if word.endswith(":")]
    assert sorted(copied) == [f"{name}:" for name in machines]
    tools.clear()
    tools.launch(script, "start", "s", *arguments, *TRAIN)
    commands = [
        shlex.split(word.removeprefix("--command="))
        for call in tools.calls_of("ssh")
        for word in call
        if word.startswith("--command=")
    ]
    assert commands == [["bash", "ttoaa/launch/worker.sh", "start", *TRAIN[1:]]] * len(machines)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("compute_engine.sh", ("start", "s", *ONE, "--topology=4x4", "--hosts=4", "--spot=yes")),
        ("compute_engine.sh", ("watch", "s", *ONE)),
        ("queued_tpu.sh", ("start", "s", *ONE, "--spot=yes")),
        ("gke.sh", ("start", "s", "--image=r/ttoaa:1")),
    ],
)
def test_a_study_in_a_bucket_needs_no_shared_file_system(tools, script, arguments):
    done = tools.launch(script, *arguments, "--dry_run", "--", "train", "--workdir=gs://b/mine")
    assert (done.returncode, done.stderr) == (0, "") and "gs://b/mine" in done.stdout


@pytest.mark.parametrize(
    ("kind", "version"), [("v5p-128", "v2-alpha-tpuv5"), ("v4-8", "tpu-ubuntu2204-base")]
)
def test_a_queued_tpu_gets_the_runtime_version_of_its_type(tools, kind, version):
    done = tools.launch("queued_tpu.sh", "create", "s", *ONE, f"--accelerator_type={kind}")
    assert done.returncode == 0
    (created,) = tools.calls_of("create")
    assert {f"--accelerator-type={kind}", f"--runtime-version={version}"} < set(created)


def test_watch_makes_preempted_machines_again_and_ends_with_the_command(tools):
    (tools.folder / "job").write_text("inactive")
    done = tools.launch("compute_engine.sh", "watch", "s", *SLICE, *TRAIN, WATCH_SECONDS="0")
    assert done.returncode == 0, done.stderr
    created = [call for call in tools.calls if "create" in call]
    assert len(created) == 3 and len(tools.calls_of("scp")) == 2
    (tools.folder / "machine").write_text("s-de2f\n")  # both run: nothing is made
    (tools.folder / "job").write_text("failed")
    tools.clear()
    done = tools.launch("compute_engine.sh", "watch", "s", *SLICE, *TRAIN, WATCH_SECONDS="0")
    assert done.returncode == 1 and not tools.calls_of("delete") and not tools.calls_of("create")


def test_a_jobset_is_submitted_once_with_time_to_save(tools):
    for _ in range(2):
        assert tools.launch("gke.sh", "start", "s", *CONTAINER, *TRAIN).returncode == 0
    (submitted,) = tools.calls_of("submit")
    assert {"--grace-period=2m", "--restarts=100", "--mount=studies:/studies:rw"} < set(submitted)
    (command,) = (word for word in submitted if word.startswith("--command="))
    assert shlex.split(command.removeprefix("--command=")) == ["ttoaa", *TRAIN[1:]]


@pytest.mark.parametrize(("command", "tasks"), [("train", 4), ("evaluate", 1), ("dependence", 1)])
def test_slurm_runs_training_with_a_task_for_each_gpu(tools, command, tasks):
    job = ("--nodes=2", "--gpus=4", "--", command, "--workdir=/w")
    assert tools.launch("slurm.sh", "start", "s", *job).returncode == 0
    (submitted,) = tools.calls_of("sbatch")
    wanted = {"--nodes=2", "--gpus-per-node=4", f"--ntasks-per-node={tasks}", "--requeue"}
    assert {*wanted, "--signal=TERM@120", "--open-mode=append"} < set(submitted)
    tools.clear()
    (tools.folder / "queue").write_text("17 s RUNNING\n")
    assert "already" in tools.launch("slurm.sh", "start", "s", *job).stdout
    assert not tools.calls_of("sbatch")


@pytest.mark.parametrize(("code", "again"), [(143, 1), (0, 0), (1, 0)])
def test_a_slurm_job_that_was_stopped_goes_back_into_the_queue(tools, code, again):
    submitted = tools.launch("slurm.sh", "start", "s", *TRAIN).stdout
    tools.script("srun", f'#!/bin/bash\nprintf "%s\\n" "$@" >"$FAKES/ran"\nexit {code}\n')
    done = tools.run("-c", submitted, SLURM_JOB_ID="17")
    assert done.returncode == code
    assert len(tools.calls_of("requeue", "17")) == again
    assert (tools.folder / "ran").read_text().splitlines()[1:] == ["-m", "ttoaa", *TRAIN[1:]]


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("compute_engine.sh", ("build", "s"), "not an action"),
        ("compute_engine.sh", ("create",), "needs a name"),
        ("compute_engine.sh", ("create", "My_machine"), "needs a name"),
        ("compute_engine.sh", ("create", "s"), "--zone="),
        ("compute_engine.sh", ("create", "s", "--size=2"), "not a flag"),
        ("compute_engine.sh", ("start", "s", *ONE, "--spot=yes", *TRAIN), "--nfs="),
        ("compute_engine.sh", ("start", "s", *ONE, "--topology=4x4", *TRAIN), "--nfs="),
        ("compute_engine.sh", ("create", "s", *ONE, "--hosts=2"), "--topology="),
        ("compute_engine.sh", ("watch", "s", *ONE, *TRAIN), "--nfs="),
        ("queued_tpu.sh", ("start", "s", *ONE), "needs a command"),
        ("queued_tpu.sh", ("start", "s", *ONE, "--spot=yes", *TRAIN), "--nfs="),
        ("queued_tpu.sh", ("start", "s", *ONE, *TRAIN, "--dry_run"), "before --"),
        ("queued_tpu.sh", ("create", "s", *ONE, "--accelerator_type=v9-8"), "--runtime_version="),
        ("queued_tpu.sh", ("start", "s", *ONE, "--", "train"), "--workdir="),
        ("queued_tpu.sh", ("start", "s", *ONE, "--", "plan"), "not a job"),
        ("queued_tpu.sh", ("stop", "s", *ONE, *TRAIN), "takes no command"),
        ("gke.sh", ("start", "s", "--mount=a:/b:rw", *TRAIN), "--image="),
        ("gke.sh", ("start", "s", "--image=r/ttoaa:1", *TRAIN), "--mount="),
        ("processes.sh", ("start", "s", "--processes=two", *TRAIN), "must be a number"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(tools, script, arguments, says):
    done = tools.launch(script, *arguments)
    assert done.returncode == 1 and says in done.stderr
    assert done.stderr.count("\n") == 1 and not tools.calls_of("create")


def test_help_shows_the_head_of_the_launcher(tools):
    for path in sorted((ROOT / "launch").glob("*.sh")):
        if "read_arguments '" in path.read_text():
            done = tools.launch(path.name, "--help")
            assert done.returncode == 0 and f"launch/{path.name} ACTION NAME" in done.stdout


class Worker(Tools):
    """A copy of the launchers on a machine whose systemctl, sudo and metadata are stand-ins."""

    def __init__(self, folder, machines):
        super().__init__(folder)
        shutil.copytree(ROOT / "launch", folder / "ttoaa" / "launch")
        self.script("sudo", '#!/bin/bash\n"$@"\n')
        self.script("curl", f"#!/bin/bash\necho {','.join(machines)}\n")
        self.script(
            "systemctl",
            '#!/bin/bash\ncase "$1" in is-active) [[ -e "$FAKES/active" ]] ;;\n'
            'start) touch "$FAKES/active" ;; disable) rm "$FAKES/active" ;; esac\n',
        )

    def work(self, *arguments):
        unit = str(self.folder / "unit")
        return self.run(str(self.folder / "ttoaa/launch/worker.sh"), *arguments, UNIT=unit)


def test_a_machine_keeps_one_command_running(tmp_path):
    worker = Worker(tmp_path / "worker", ["a"])
    assert worker.work("start", *TRAIN[1:]).returncode == 0
    unit = (worker.folder / "unit").read_text()
    assert "Restart=on-failure" in unit and "TimeoutStopSec=120" in unit
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


PROCESS = """#!/bin/bash
trap 'echo stopped; exit 143' TERM
echo "$CUDA_VISIBLE_DEVICES $*"
[[ "$*" == *--process_id=1* || -e "$FAKES/works" ]] || { touch "$FAKES/works"; exit 1; }
for _ in {1..60000}; do sleep 0.01; done
"""


def test_local_processes_start_once_restart_and_stop(tmp_path):
    tools = Worker(tmp_path / "tools", ["a"])
    python = tools.folder / "ttoaa/.venv/bin/python"
    python.parent.mkdir(parents=True)
    tools.script("ttoaa/.venv/bin/python", PROCESS)
    logs = tools.folder / "logs"

    def launch(action, *job):
        script = str(tools.folder / "ttoaa/launch/processes.sh")
        place = (f"--logs={logs}", "--gpus=yes")
        return tools.run(script, action, "s", *place, *job, RESTART_SECONDS="0")

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
    launch("start", *TRAIN)
    assert launch("status").stdout == "0: runs\n1: runs\n"
    first = next(line for line in log(1) if "--process_id" in line)
    assert first.startswith("1 -m ttoaa train") and first.endswith(
        "--num_processes=2 --process_id=1"
    )
    launch("stop")
    wait_for(lambda: launch("status").stdout == "0: ended\n1: ended\n")
    assert (len(log(0)), len(log(1))) == (4, 2)
    assert [log(k)[-1] for k in (0, 1)] == ["stopped"] * 2


@pytest.mark.parametrize(
    ("device", "found"), [("0x006f", "tpu"), ("0x0062", "tpu"), ("0x0042", "")]
)
def test_a_tpu_is_found_on_the_pci_bus(tmp_path, tools, device, found):
    folder = tmp_path / "devices" / "0000:00:04.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text("0x1ae0\n")  # Google's, also of its network cards
    (folder / "device").write_text(f"{device}\n")
    script = f'source "{ROOT}/launch/common.sh"; accelerator'
    done = tools.run("-euo", "pipefail", "-c", script, PCI_DEVICES=str(folder.parent))
    assert (done.returncode, done.stdout.strip()) == (0, found)


def test_the_container_installs_files_of_the_checkout():
    text = (ROOT / "launch/Containerfile").read_text()
    copied = {
        word for line in re.findall("^COPY (.*) ", text, re.MULTILINE) for word in line.split()
    }
    assert all((ROOT / name).exists() for name in copied)
    assert "constraints" in copied and json.dumps("ttoaa") in text
    for name in re.findall(r"constraints/\S+\.txt", text):
        assert (ROOT / name).exists()
