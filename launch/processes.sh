#!/usr/bin/env bash
# Runs ttoaa in several processes on this machine, in the background.
#
#   bash launch/processes.sh ACTION NAME [flags] [-- COMMAND]
#
#   start     train, evaluate or dependence, such as: -- train --workdir=runs/mine; nothing if it runs.
#             Processes that fail are started again, five times at most
#   status, logs, stop
#
#   --processes=2    of training, they form one run; of other commands, they share the work
#   --gpus=yes       give each process the GPU of its number
#   --port=8476      where the processes of one run meet
#   --logs=runs/logs
#   --dry_run        print the commands
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/jobs.sh"

PROCESSES=2 GPUS='' PORT=8476 LOGS="$ROOT/runs/logs"
read_arguments 'start status logs stop' 'processes gpus? port logs' "$@"
[[ "$PROCESSES" =~ ^[1-9][0-9]*$ ]] || fail "--processes=$PROCESSES must be a number"

start_text() {
  local number log lock command starts=''
  for ((number = 0; number < PROCESSES; number++)); do
    log="$LOGS/$NAME-$number.log"
    lock="$(quote "$log.lock")"
    command=("$PYTHON" -m ttoaa "${JOB[@]}")
    [[ "${JOB[0]}" != train || "$PROCESSES" == 1 ]] ||
      command+=("--coordinator=localhost:$PORT" "--num_processes=$PROCESSES" "--process_id=$number")
    [[ -z "$GPUS" ]] || command=(env "CUDA_VISIBLE_DEVICES=$number" "${command[@]}")
    cat <<EOT
runs="\$(flock --nonblock $lock true || tail -n +2 $(quote "$log.pid") 2>/dev/null || true)"
test -z "\$runs" || test "\$runs" = $(quote "${command[*]}") || {
  echo "$NAME: stop it first, or use another name: process $number runs \$runs" >&2
  exit 1
}
EOT
    # The lock is held by the process and its restarts, so that a second start does nothing.
    starts+="
flock --nonblock $lock true || echo '$number: runs already'
setsid flock --nonblock --conflict-exit-code=0 $lock $(quote bash "$ROOT/launch/restart.sh" \
      "$log.pid" "${command[@]}") >>$(quote "$log") 2>&1 </dev/null &"
  done
  echo "$starts"
}

text() {
  local number log lock
  quote mkdir -p "$LOGS"
  [[ "$ACTION" != start ]] || start_text
  for ((number = 0; number < PROCESSES; number++)); do
    log="$LOGS/$NAME-$number.log"
    lock="$(quote "$log.lock")"
    case "$ACTION" in
      status) echo "flock --nonblock $lock true && echo $number: ended || echo $number: runs" ;;
      logs) quote tail -n 50 "$log" ;;
      stop) echo "flock --nonblock $lock true || kill -TERM \"\$(head -n 1 $(quote "$log.pid"))\"" ;;
    esac
  done
}

act text
