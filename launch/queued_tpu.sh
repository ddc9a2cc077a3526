#!/usr/bin/env bash
# Runs ttoaa on TPU machines of the Cloud TPU API, requested as a queued resource.
#
# Google develops this API no further, and it has no TPU7x or later chips. Where you can, use
# compute_engine.sh or gke.sh; v4 and v5e machines exist only here and on GKE.
#
#   bash launch/queued_tpu.sh ACTION NAME --zone=ZONE [flags] [-- COMMAND]
#
#   create     request the machines and wait for them; nothing if they exist
#   install    the last commit of this checkout on all machines
#   start      train, evaluate or dependence, such as: -- train --workdir=/studies/mine; nothing if it runs.
#              The machine restarts it after a failure and after a reboot
#   watch      the three above, and again after a preemption, until the command has ended
#   status, logs, stop, delete, and healthy: whether all machines run
#
#   --accelerator_type=v6e-8   or v5p-128, v5litepod-16, v4-128
#   --runtime_version=         default: the one for v6e, v5p, v5e or v4
#   --nfs=10.0.0.2:/studies    mounted at /studies on every machine; several machines need it, or a study
#                              in a bucket (--workdir=gs://…)
#   --spot=yes                 preemptible: needs the same
#   --packages=wandb --env_file=FILE   install also these, and run jobs with the variables in FILE,
#                              lines such as WANDB_API_KEY=…, which is copied to the machines
#   --project=PROJECT          default: that of gcloud
#   --dry_run                  print the commands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

ACCELERATOR_TYPE=v6e-8 RUNTIME_VERSION='' SPOT='' PROJECT='' ZONE='' NFS='' PACKAGES='' ENV_FILE=''
read_arguments 'create install start watch status healthy logs stop delete' \
  'zone accelerator_type runtime_version nfs spot? packages env_file project' "$@"
required ZONE
[[ -z "$SPOT" || -n "$NFS" || ${#JOB[@]} -eq 0 ]] || in_bucket ||
  fail "--spot needs --nfs= or a study in a bucket (--workdir=gs://…)"
zone=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"})

resource() { quote gcloud compute tpus queued-resources "$1" "$NAME" "${zone[@]}"; }

runtime_version() { # of the machine image
  case "$ACCELERATOR_TYPE" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "--accelerator_type=$ACCELERATOR_TYPE needs its --runtime_version=" ;;
  esac
}
# Also for watch, which would try again and again.
[[ "$ACTION" != create && "$ACTION" != watch ]] || RUNTIME_VERSION="${RUNTIME_VERSION:-$(runtime_version)}"

create_text() {
  unless "$(resource describe)" "$(command_of gcloud compute tpus queued-resources create "$NAME" \
    "${zone[@]}" "--node-id=$NAME" "--accelerator-type=$ACCELERATOR_TYPE" \
    "--runtime-version=$RUNTIME_VERSION" ${SPOT:+--spot})"
  echo "until state=\"\$($(resource describe) '--format=value(state.state)')\"; test \"\$state\" = ACTIVE; do"
  echo "  case \"\$state\" in FAILED | SUSPENDED) echo \"$NAME: \$state\" >&2 && exit 1 ;; esac"
  echo "  sleep 30"
  echo "done"
}

delete_text() {
  if_exists "$(resource describe)" "$(resource delete) --force --quiet"
}

running_text() {
  quote gcloud compute tpus queued-resources list "${zone[@]}" \
    "--filter=name~/$NAME\$ AND state.state=ACTIVE" '--format=value(name)'
}

on_workers() { # text that runs the command $1 on all machines, after copying the files given, if any
  [[ -z "${2-}" ]] || command_of gcloud compute tpus tpu-vm scp "${@:2}" "$NAME:" "${zone[@]}" --worker=all
  command_of gcloud compute tpus tpu-vm ssh "$NAME" "${zone[@]}" --worker=all "--command=$1"
}

act tpu_machines_text
