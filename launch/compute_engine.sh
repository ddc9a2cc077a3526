#!/usr/bin/env bash
# Runs ttoaa on a TPU machine of Compute Engine, or on a slice of several.
#
#   bash launch/compute_engine.sh ACTION NAME --zone=ZONE [flags] [-- COMMAND]
#
#   create     the machine, or the slice; nothing if it exists
#   install    the last commit of this checkout on all machines
#   start      train, evaluate or dependence, such as: -- train --workdir=/studies/mine; nothing if it runs.
#              The machine restarts it after a failure and after a reboot
#   watch      the three above, and again after a preemption, until the command has ended
#   status, logs, stop, delete, and healthy: whether all machines run
#
#   --machine_type=ct6e-standard-8t    v6e with 8 chips; ct5p-hightpu-4t is v5p with 4
#   --topology=4x4 --hosts=4           a slice: chips, and machines; v6e needs ct6e-standard-4t
#   --nfs=10.0.0.2:/studies            mounted at /studies on every machine; a slice needs it, or a study
#                                      in a bucket (--workdir=gs://…)
#   --spot=yes                         preemptible and deleted when preempted: needs the same
#   --image_family=FAMILY              for TPU7x: ubuntu-accel-2404-amd64-tpu-tpu7x
#   --disk=200GB
#   --packages=wandb --env_file=FILE   install also these, and run jobs with the variables in FILE,
#                                      lines such as WANDB_API_KEY=…, which is copied to the machines
#   --project=PROJECT                  default: that of gcloud
#   --dry_run                          print the commands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

MACHINE_TYPE=ct6e-standard-8t DISK=200GB TOPOLOGY='' HOSTS=1 SPOT='' PROJECT='' ZONE='' NFS='' PACKAGES='' ENV_FILE=''
IMAGE_FAMILY=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e
read_arguments 'create install start watch status healthy logs stop delete' \
  'zone machine_type topology hosts nfs spot? image_family disk packages env_file project' "$@"
required ZONE
[[ "$HOSTS" =~ ^[1-9][0-9]*$ ]] || fail "--hosts=$HOSTS must be a number"
[[ -n "$TOPOLOGY" || "$HOSTS" == 1 ]] || fail "--hosts=$HOSTS needs the --topology= of the slice"
[[ -z "$TOPOLOGY$SPOT" || -n "$NFS" || ${#JOB[@]} -eq 0 ]] || in_bucket ||
  fail "a slice and --spot need --nfs= or a study in a bucket (--workdir=gs://…)"

REGION="${ZONE%-*}"
PROJECT="${PROJECT:-$(gcloud config get-value project 2>/dev/null || true)}"
[[ -n "$PROJECT" ]] || fail "gcloud has no project: pass --project="
zone=("--project=$PROJECT" "--zone=$ZONE")
region=("--project=$PROJECT" "--region=$REGION")
machine=(
  "--machine-type=$MACHINE_TYPE" --maintenance-policy=TERMINATE --scopes=cloud-platform
  --image-project=ubuntu-os-accelerator-images "--image-family=$IMAGE_FAMILY"
  "--boot-disk-size=$DISK"
)
[[ -z "$SPOT" ]] || machine+=(--provisioning-model=SPOT --instance-termination-action=DELETE)

instance() { quote gcloud compute instances "$1" "$NAME" "${zone[@]}"; }
group() { quote gcloud compute instance-groups managed "$1" "$NAME" "${zone[@]}"; }
policy() { quote gcloud compute resource-policies "$1" "$NAME" "${region[@]}"; }
template() { quote gcloud compute instance-templates "$1" "$NAME" "${region[@]}"; }

create_text() {
  if [[ -z "$TOPOLOGY" ]]; then
    unless "$(instance describe)" \
      "$(command_of gcloud compute instances create "$NAME" "${zone[@]}" "${machine[@]}")"
    return
  fi
  # A slice is a group that creates all its machines at once, in the shape of a workload policy.
  unless "$(policy describe)" "$(command_of gcloud compute resource-policies create \
    workload-policy "$NAME" "${region[@]}" --type=HIGH_THROUGHPUT \
    "--accelerator-topology=$TOPOLOGY")"
  unless "$(template describe)" "$(command_of gcloud compute instance-templates create "$NAME" \
    "--project=$PROJECT" "--instance-template-region=$REGION" "${machine[@]}")"
  unless "$(group describe)" "$(command_of gcloud compute instance-groups managed create "$NAME" \
    "${zone[@]}" "--size=$HOSTS" --target-size-policy-mode=bulk \
    --default-action-on-vm-failure=do-nothing \
    "--template=projects/$PROJECT/regions/$REGION/instanceTemplates/$NAME" \
    "--workload-policy=projects/$PROJECT/regions/$REGION/resourcePolicies/$NAME")"
  echo "$(group wait-until) --stable"
}

delete_text() {
  if [[ -z "$TOPOLOGY" ]]; then
    if_exists "$(instance describe)" "$(instance delete) --quiet"
  else
    if_exists "$(group describe)" "$(group delete) --quiet"
    if_exists "$(template describe)" "$(template delete) --quiet"
    if_exists "$(policy describe)" "$(policy delete) --quiet"
  fi
}

running_text() {
  local names="name=$NAME"
  [[ -z "$TOPOLOGY" ]] || names="name~^$NAME-....\$" # a group adds four characters
  quote gcloud compute instances list "--project=$PROJECT" "--zones=$ZONE" \
    "--filter=$names AND status=RUNNING" '--format=value(name)'
}

on_workers() { # text that runs the command $1 on all machines, after copying the files given, if any
  local workers="$NAME"
  [[ -z "$TOPOLOGY" ]] ||
    workers="\$($(group list-instances) '--format=value(instance.basename())')"
  echo "pids=()"
  echo "for worker in $workers; do"
  echo "  {"
  if [[ -n "${2-}" ]]; then # a new machine takes a while until it accepts connections
    echo "    for attempt in {1..10}; do"
    echo "      gcloud compute scp $(quote "${@:2}") \"\$worker\": ${zone[*]} && break"
    echo "      sleep 15"
    echo "    done"
  fi
  echo "    gcloud compute ssh \"\$worker\" ${zone[*]} $(quote "--command=$1")"
  echo "  } &"
  echo "  pids+=(\"\$!\")"
  echo "done"
  echo "for pid in \"\${pids[@]}\"; do wait \"\$pid\"; done"
}

act tpu_machines_text
