"""The launchers of jobs, with stand-ins for the tools of clouds and clusters."""

import json
import re
import shlex
import sys

import pytest
from launch_tools import ROOT, TRAIN, Tools

ONE = ("--zone=us-east5-a",)
SLICE = (
    *ONE,
    "--topology=2x4",
    "--hosts=2",
    "--nfs=10.0.0.2:/s",
    "--machine_type=ct6e-standard-4t",
)
CLUSTER = ("--cluster=c", "--location=l", "--project=p")
CONTAINER = ("--image=r/ttoaa:1", "--mount=studies:/studies:rw")


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path / "tools")


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
        ("gke.sh", ("logs", "s", *CLUSTER)),
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


LAUNCHERS = pytest.mark.parametrize(
    ("script", "arguments", "things"),
    [
        ("compute_engine.sh", ONE, 1),
        ("compute_engine.sh", SLICE, 3),
        ("queued_tpu.sh", ONE, 1),
        ("gke.sh", CLUSTER, 1),
    ],
    ids=["machine", "slice", "queued", "gke"],
)


@LAUNCHERS
def test_machines_are_created_once_and_deleted_once(tools, script, arguments, things):
    create = ("create", "s", *arguments)
    if script == "gke.sh":
        create = ("start", "s", *arguments, *CONTAINER, *TRAIN)
    for command in (create, ("delete", "s", *arguments)):
        for _ in range(2):
            done = tools.launch(script, *command)
            assert done.returncode == 0, done.stderr
    assert len(tools.calls_of("create")) + len(tools.calls_of("submit")) == things
    assert len(tools.calls_of("delete")) + len(tools.calls_of("cancel")) == things


@LAUNCHERS
def test_what_cannot_be_looked_up_is_not_taken_as_deleted(tools, script, arguments, things):
    (tools.folder / "expired").touch()
    done = tools.launch(script, "delete", "s", *arguments)
    assert (done.returncode, done.stderr) == (1, "the login has expired\n")


def test_gke_asks_the_cluster_of_the_flags(tools):
    """kubectl has no such flags: `gcluster` points it to the cluster first."""
    assert tools.launch("gke.sh", "status", "s", *CLUSTER).returncode == 0
    gcluster, kubectl = tools.calls
    assert set(CLUSTER) < set(gcluster) and kubectl[0] == "kubectl"


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


@pytest.mark.parametrize("script", ["compute_engine.sh", "queued_tpu.sh"])
def test_a_tracker_gets_its_package_and_its_key_on_the_machine(tools, tmp_path, script):
    """The key is in a file that is copied, and in no command."""
    secrets = tmp_path / "job.env"
    install = ("install", "s", *ONE, "--packages=wandb,trackio>=0.43", f"--env_file={secrets}")
    assert "there is no file" in tools.launch(script, *install).stderr
    secrets.write_text("WANDB_API_KEY=hidden\n")
    assert tools.launch(script, *install).returncode == 0
    assert str(secrets) in tools.calls_of("scp")[0]
    (command,) = (word for word in tools.calls_of("ssh")[0] if word.startswith("--command="))
    assert "mv job.env ttoaa/job.env && chmod 600 ttoaa/job.env" in command
    assert shlex.split(command)[-3:] == ["", "wandb", "trackio>=0.43"]
    assert "hidden" not in str(tools.calls)


def test_a_tracker_gets_its_package_and_its_key_on_gke(tools):
    assert tools.launch("gke.sh", "image", "s", *CONTAINER, "--packages=wandb,a").returncode == 0
    (built,) = tools.calls_of("build")
    assert "--build-arg=PACKAGES=wandb a" in built
    tools.launch("gke.sh", "start", "s", *CONTAINER, "--env_file=/studies/job.env", *TRAIN)
    (submitted,) = tools.calls_of("submit")
    begin = "--command=set -a && . /studies/job.env && exec ttoaa train "
    assert any(word.startswith(begin) for word in submitted)
    arguments = ("start", "t", "--image=i", "--env_file=/studies/job.env", "--", "train")
    done = tools.launch("gke.sh", *arguments, "--workdir=gs://bucket/study")
    assert done.stderr == "gke.sh: start needs --mount=\n", "the file is in the volume"


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
    for said in ("", "s has this command already, status Running: delete it to start it again\n"):
        done = tools.launch("gke.sh", "start", "s", *CONTAINER, *TRAIN)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    other = ("--", "evaluate", "--workdir=/studies/mine")
    done = tools.launch("gke.sh", "start", "s", *CONTAINER, *other)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("s: delete it first, or use another name: ")
    assert "ttoaa train --workdir=/studies/mine" in done.stderr
    (submitted,) = tools.calls_of("submit")
    assert {"--grace-period=2m", "--restarts=100", "--mount=studies:/studies:rw"} < set(submitted)
    (command,) = (word for word in submitted if word.startswith("--command="))
    assert shlex.split(command.removeprefix("--command=")) == ["ttoaa", *TRAIN[1:]]


@pytest.mark.parametrize(
    ("arguments", "single"),
    [
        ((), True),
        (("--slices=2",), False),
        (("--compute_type=v6e-16",), False),
        (("--compute_type=v5p-8",), False),
        (("--compute_type=ct6e-standard-4t", "--topology=2x2"), True),
        (("--compute_type=ct6e-standard-4t", "--topology=2x4"), False),
        (("--compute_type=ct5p-hightpu-4t", "--topology=2x2x1"), True),
        (("--compute_type=ct5p-hightpu-4t", "--topology=4x4x4"), False),
    ],
)
def test_gke_evaluates_on_a_single_machine(tools, arguments, single):
    job = ("start", "s", "--dry_run", *CONTAINER, *arguments, "--")
    done = tools.launch("gke.sh", *job, "evaluate", "--workdir=/w")
    assert done.returncode == (0 if single else 1)
    assert done.stderr.count("\n") == (0 if single else 1)
    assert tools.launch("gke.sh", *job, "train", "--workdir=/w").returncode == 0


@pytest.mark.parametrize(("command", "tasks"), [("train", 4), ("evaluate", 1), ("dependence", 1)])
def test_slurm_runs_training_with_a_task_for_each_gpu(tools, command, tasks):
    job = ("--nodes=2", "--gpus=4", "--", command, "--workdir=/w")
    assert tools.launch("slurm.sh", "start", "s", *job).returncode == 0
    (submitted,) = tools.calls_of("sbatch")
    wanted = {"--nodes=2", "--gpus-per-node=4", f"--ntasks-per-node={tasks}", "--requeue"}
    assert {*wanted, "--signal=TERM@120", "--open-mode=append"} < set(submitted)
    tools.clear()
    (comment,) = (each for each in submitted if each.startswith("--comment="))
    (tools.folder / "queue").write_text(comment.removeprefix("--comment=") + "\n")
    assert "already" in tools.launch("slurm.sh", "start", "s", *job).stdout
    other = tools.launch("slurm.sh", "start", "s", *job[:-1], "--workdir=/other")
    assert other.returncode == 1 and other.stderr.count("\n") == 1
    assert (
        other.stderr.startswith("s: stop it first, ") and f"{command} --workdir=/w" in other.stderr
    )
    assert not tools.calls_of("sbatch")


def test_slurm_needs_a_jax_with_cuda(tools):
    job = ("start", "s", "--", "train", "--workdir=/w")
    assert tools.launch("slurm.sh", *job).returncode == 0
    tools.script("ttoaa/.venv/bin/python", f'#!/bin/bash\nexec "{sys.executable}" -S -I "$@"\n')
    tools.clear()
    done = tools.launch("slurm.sh", *job)
    assert done.returncode == 1 and "bash launch/install.sh cuda13" in done.stderr
    assert done.stderr.count("\n") == 1 and not tools.calls


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
        (
            "queued_tpu.sh",
            ("watch", "s", *ONE, "--accelerator_type=v9-8", "--nfs=1:/s", *TRAIN),
            "--runtime_version=",
        ),
        ("queued_tpu.sh", ("start", "s", *ONE, "--", "train"), "--workdir="),
        ("queued_tpu.sh", ("start", "s", *ONE, "--", "plan"), "not a job"),
        ("queued_tpu.sh", ("stop", "s", *ONE, *TRAIN), "takes no command"),
        ("gke.sh", ("start", "s", "--mount=a:/b:rw", *TRAIN), "--image="),
        ("gke.sh", ("start", "s", "--image=r/ttoaa:1", *TRAIN), "--mount="),
        ("gke.sh", ("start", "s", "--topology=4*4", *CONTAINER, *TRAIN), "such as 4x4"),
        ("processes.sh", ("start", "s", "--processes=two", *TRAIN), "must be a number"),
        ("processes.sh", ("start", "s", "--gpus=8", *TRAIN), "--gpus=yes or --gpus=no"),
        ("compute_engine.sh", ("create", "s", *ONE, "--spot=true"), "--spot=yes or --spot=no"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(tools, script, arguments, says):
    done = tools.launch(script, *arguments)
    assert done.returncode == 1 and says in done.stderr
    assert done.stderr.count("\n") == 1 and not tools.calls_of("create")


@pytest.mark.parametrize(
    ("script", "arguments", "shows"),
    [
        ("compute_engine.sh", ("create", "s", *ONE, "--spot={}"), "SPOT"),
        ("queued_tpu.sh", ("create", "s", *ONE, "--spot={}"), "--spot"),
        ("processes.sh", ("start", "s", "--gpus={}", *TRAIN), "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_flag_of_yes_and_no_can_be_no(tools, script, arguments, shows):
    for value in ("yes", "no"):
        given = [word.format(value) for word in arguments]
        done = tools.launch(script, *given[:2], "--dry_run", *given[2:])
        assert done.returncode == 0 and (shows in done.stdout) == (value == "yes")


def test_help_shows_the_head_of_the_launcher(tools):
    for path in sorted((ROOT / "launch").glob("*.sh")):
        if "read_arguments '" in path.read_text():
            done = tools.launch(path.name, "--help")
            assert done.returncode == 0 and f"launch/{path.name} ACTION NAME" in done.stdout


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
