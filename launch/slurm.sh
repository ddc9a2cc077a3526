#!/usr/bin/env bash
# Runs ttoaa on GPU nodes of a SLURM cluster, from a checkout on a shared file system where
# `bash launch/install.sh cuda13` has made .venv/.
#
#   bash launch/slurm.sh ACTION NAME [flags] [-- COMMAND]
#
#   start     train, evaluate or dependence, such as: -- train --workdir=/shared/mine; nothing if a job of
#             this name waits or runs. The job goes back into the queue after its time limit, after
#             a preemption and after the failure of a node
#   status, logs, stop
#
#   --nodes=1 --gpus=8               GPUs per node; training takes a process per GPU, evaluation
#                                    and dependence one process per node
#   --cpus=8                         cores per process
#   --time=24:00:00
#   --partition= --account= --qos=   default: those of the cluster
#   --logs=runs/logs
#   --dry_run                        print the commands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

NODES=1 GPUS=8 CPUS=8 TIME=24:00:00 PARTITION='' ACCOUNT='' QOS='' LOGS="$ROOT/runs/logs"
read_arguments 'start status logs stop' \
  'nodes gpus cpus time partition account qos logs' "$@"

has_gpu_plugin() { # whether JAX in .venv/ finds a plugin, where a login node has no GPU to find
  "$PYTHON" -c 'import importlib.metadata as m, sys
sys.exit(not m.entry_points(group="jax_plugins"))' 2>/dev/null
}
[[ "$ACTION" != start || -n "$DRY_RUN" ]] || has_gpu_plugin ||
  fail "JAX in $VENV has no CUDA: bash launch/install.sh cuda13 (cuda12 for drivers before 580)"

script() { # what the job runs; training that was stopped by a signal exits with 143
  cat <<EOT
#!/bin/bash
code=0
srun $(quote "$PYTHON" -m ttoaa "${JOB[@]}") || code=\$?
if [ "\$code" = 143 ]; then scontrol requeue "\$SLURM_JOB_ID"; fi
exit "\$code"
EOT
}

text() {
  local tasks=1 log queued job
  queued="$(quote squeue "--user=$(id -un)" "--name=$NAME")"
  log="$(quote "$LOGS/$NAME.log")"
  case "$ACTION" in
    start)
      [[ "${JOB[0]}" != train ]] || tasks="$GPUS"
      job="$(quote ttoaa "${JOB[@]}")"
      quote mkdir -p "$LOGS"
      echo "runs=\"\$($queued --noheader --format=%k)\""
      echo "if test \"\$runs\" = $(quote "$job"); then"
      echo "  echo $(quote "$NAME waits or runs already")"
      echo "elif test -n \"\$runs\"; then"
      echo "  echo $(quote "$NAME: stop it first, or use another name: its command is") \"\$runs\" >&2"
      echo "  exit 1"
      echo "else"
      # Two minutes before the time limit, training gets SIGTERM, and saves.
      command_of sbatch "--job-name=$NAME" "--comment=$job" "--nodes=$NODES" "--gpus-per-node=$GPUS" \
        "--ntasks-per-node=$tasks" "--cpus-per-task=$CPUS" "--time=$TIME" --signal=TERM@120 \
        --requeue --open-mode=append "--output=$LOGS/$NAME.log" \
        ${PARTITION:+"--partition=$PARTITION"} ${ACCOUNT:+"--account=$ACCOUNT"} \
        ${QOS:+"--qos=$QOS"} | sed "s/^/  /; \$ s/\$/ <<'EOF'/"
      script
      echo EOF
      echo "fi"
      ;;
    status) echo "$queued" ;;
    logs) echo "tail -n 100 $log" ;;
    stop) quote scancel "--user=$(id -un)" "--name=$NAME" ;;
  esac
}

act text
