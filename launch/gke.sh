#!/usr/bin/env bash
# Runs ttoaa as a JobSet on TPUs of a GKE cluster, through gcluster of Google's Cluster Toolkit.
#
#   bash launch/gke.sh ACTION NAME [flags] [-- COMMAND]
#
#   image     build and push the container of launch/Containerfile
#   start     train, evaluate or dependence, such as: -- train --workdir=/studies/mine; nothing if it exists.
#             GKE starts it again after a preemption or failure
#   status, logs, delete
#
#   --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/ttoaa:TAG
#   --compute_type=v6e-8             or a machine type and --topology=, such as
#                                    ct5p-hightpu-4t and 4x4x4; evaluation needs a single machine
#   --slices=1
#   --mount=STUDIES:/studies:rw      such as the claim of a Filestore volume; written as your
#                                    version of gcluster wants it. A study in a bucket needs none
#   --packages=wandb                 image: install also these
#   --env_file=/studies/job.env      start: a file in the mounted volume whose variables the job gets,
#                                    lines such as WANDB_API_KEY=…; gcluster passes no secrets
#   --restarts=100
#   --cluster= --location= --project= --queue=   default: those of `gcluster job config`
#   --dry_run                        print the commands
#
# gcluster replaces xpk, which Google has deprecated.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

IMAGE='' COMPUTE_TYPE=v6e-8 TOPOLOGY='' SLICES=1 MOUNT='' RESTARTS=100 PACKAGES='' ENV_FILE=''
CLUSTER='' LOCATION='' PROJECT='' QUEUE=''
read_arguments 'image start status logs delete' \
  'image compute_type topology slices mount restarts packages env_file cluster location project queue' "$@"
[[ "${TOPOLOGY:-1}" =~ ^[0-9]+(x[0-9]+)*$ ]] || fail "--topology=$TOPOLOGY must be such as 4x4"
place=(${CLUSTER:+"--cluster=$CLUSTER"} ${LOCATION:+"--location=$LOCATION"}
  ${PROJECT:+"--project=$PROJECT"})
# The JobSets whose names contain this one, as a table. gcluster also points kubectl to its cluster.
list="$(quote gcluster job list "--name-contains=$NAME" "${place[@]}")"

single_machine() { # whether the job gets one machine; the number in a type counts its chips, for v4 cores
  local most=4 chips=1
  case "$COMPUTE_TYPE" in *-1 | *-1t) most=1 ;; v4-8 | v5litepod-8 | v6e-8 | *-8t) most=8 ;; esac
  [[ ! "$COMPUTE_TYPE" =~ -([0-9]+)$ ]] || chips="${BASH_REMATCH[1]}"
  [[ -z "$TOPOLOGY" ]] || chips="${TOPOLOGY//x/*}"
  [[ "$SLICES" == 1 ]] && ((chips <= most))
}

start_text() { # for the command $1
  local containers='{.spec.replicatedJobs[0].template.spec.template.spec.containers[0]'
  cat <<EOT
jobs="\$($list)"
if row="\$(grep '^$NAME ' <<<"\$jobs")"; then
  runs="\$($(quote kubectl get jobset "$NAME" "--output=jsonpath=$containers.command[2]}"))"
  test "\$runs" = $(quote "$1") || {
    echo "$NAME: delete it first, or use another name: its command is \$runs" >&2
    exit 1
  }
  read -r _ status _ <<<"\$row"
  echo "$NAME has this command already, status \$status: delete it to start it again"
  exit
fi
EOT
  # SIGTERM comes two minutes before the end of a pod, so that training saves.
  command_of gcluster job submit "--name=$NAME" "${place[@]}" ${QUEUE:+"--queue=$QUEUE"} \
    "--image=$IMAGE" "--compute-type=$COMPUTE_TYPE" ${TOPOLOGY:+"--topology=$TOPOLOGY"} \
    "--num-slices=$SLICES" ${MOUNT:+"--mount=$MOUNT"} "--restarts=$RESTARTS" --grace-period=2m \
    "--command=$1"
}

text() {
  local command
  case "$ACTION" in
    image)
      required IMAGE
      command_of docker build "--file=$ROOT/launch/Containerfile" --build-arg=ACCELERATOR=tpu \
        ${PACKAGES:+"--build-arg=PACKAGES=${PACKAGES//,/ }"} "--tag=$IMAGE" "$ROOT"
      quote docker push "$IMAGE"
      ;;
    start)
      required IMAGE
      if [[ -n "$ENV_FILE" ]] || ! in_bucket; then required MOUNT; fi
      [[ "${JOB[0]}" == train ]] || single_machine || fail "${JOB[0]} runs on a single machine:" \
        "start several jobs, such as of --compute_type=v6e-8, in place of several machines or slices"
      command="$(quote ttoaa "${JOB[@]}")"
      [[ -z "$ENV_FILE" ]] || command="set -a && . $(quote "$ENV_FILE") && exec $command"
      start_text "$command"
      ;;
    status)
      echo "$list"
      quote kubectl get pods "--selector=jobset.sigs.k8s.io/jobset-name=$NAME" --output=wide
      ;;
    logs) quote gcluster job logs "$NAME" "${place[@]}" ;;
    delete)
      echo "jobs=\"\$($list)\""
      echo "! grep -q '^$NAME ' <<<\"\$jobs\" || $(quote gcluster job cancel "$NAME" "${place[@]}")"
      ;;
  esac
}

act text
