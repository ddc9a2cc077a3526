"""Stand-ins for the tools of clouds and clusters, for tests of the launchers.

A stand-in refuses commands and flags that it does not know, and remembers what was created.
"""

import pathlib
import shutil
import subprocess

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
    "gcluster job list": "--name-contains --cluster --location --project",
    "gcluster job logs": "--cluster --location --project",
    "gcluster job cancel": "--cluster --location --project",
    "kubectl get jobset": "--output",
    "kubectl get pods": "--selector --output",
    "docker build": "--file --build-arg --tag",
    "docker push": "",
    "sbatch": (
        "--job-name --nodes --gpus-per-node --ntasks-per-node --cpus-per-task --time --signal "
        "--requeue --open-mode --output --partition --account --qos --comment"
    ),
    "squeue": "--user --name --noheader --format",
    "scancel": "--user --name",
    "scontrol requeue": "",
    "git -C": "--format --output",
}
"""The flags of gcloud, gcluster (Cluster Toolkit of June 2026) and SLURM that launchers may use."""

STAND_IN = r"""#!/bin/bash
words="${0##*/}" flags=()
for word; do if [[ "$word" == --* ]]; then flags+=("$word"); else words+=" $word"; fi; done
# Bash writes line by line, so calls at one time would mix without a lock.
{ flock 9; printf '%s\0' "${0##*/}" "$@" $'\n' >&9; } 9>>"$FAKES/calls"
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
name="${words##* }"
fail() { echo "$*" >&2; exit 1; }
[[ ! -e "$FAKES/expired" || "$command" == *get-value ]] || fail "the login has expired"
case "$command" in
  *'queued-resources describe')
    [[ " ${flags[*]}" != *--format* ]] || { cat "$FAKES/machine"; exit; }
    [[ -e "$FAKES/machine" ]] || fail "NOT_FOUND: Resource 'queued/$name' was not found." ;;
  *describe) [[ -e "$FAKES/$thing" ]] || fail " - The resource '$thing/$name' was not found" ;;
  *'job list')
    printf 'NAME   STATUS\nan-s   Running\n'
    [[ ! -e "$FAKES/machine" ]] || echo 's      Running' ;;
  *'get jobset') cat "$FAKES/jobset" ;;
  *submit)
    touch "$FAKES/machine"
    for word; do [[ "$word" != --command=* ]] || echo "${word#*=}" >"$FAKES/jobset"; done ;;
  *create*) echo ACTIVE >"$FAKES/$thing" ;;
  *delete | *'job cancel') rm "$FAKES/$thing" ;;
  squeue) cat "$FAKES/queue" 2>/dev/null || true ;;
  sbatch) cat ;;
  *list-instances) printf 's-ab1c\ns-de2f\n' ;;
  *list) cat "$FAKES/group" "$FAKES/machine" 2>/dev/null; true ;;
  *ssh) [[ "${flags[*]}" != *'worker.sh status'* ]] || echo "host: is=$(cat "$FAKES/job")" ;;
  *get-value) echo my-project ;;
esac
"""

TRAIN = ("--", "train", "--workdir=/studies/mine", "--gin_bindings=Study.name = 'it is $HOME'")
"""The end of a command line that starts training."""


class Tools:
    """A folder of stand-ins, in front of the system's programs; `calls` are the words of each.

    The launchers are copied to `ttoaa/`, where the Python of `.venv/` is a stand-in too.
    """

    def __init__(self, folder):
        self.folder = folder
        shutil.copytree(ROOT / "launch", folder / "ttoaa/launch")
        (folder / "ttoaa/.venv/bin").mkdir(parents=True)
        self.script("ttoaa/.venv/bin/python", "#!/bin/bash\n")
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
        path = self.folder / "ttoaa/launch" / script
        return self.run(str(path), *arguments, **environment)

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
