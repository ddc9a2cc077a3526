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

text() {
  local number log lock command
  quote mkdir -p "$LOGS"
  for ((number = 0; number < PROCESSES; number++)); do
    log="$LOGS/$NAME-$number.log"
    lock="$(quote "$log.lock")"
    case "$ACTION" in
      start)
        command=("$PYTHON" -m ttoaa "${JOB[@]}")
        [[ "${JOB[0]}" != train || "$PROCESSES" == 1 ]] ||
          command+=("--coordinator=localhost:$PORT" "--num_processes=$PROCESSES"
            "--process_id=$number")
        [[ -z "$GPUS" ]] || command=(env "CUDA_VISIBLE_DEVICES=$number" "${command[@]}")
        # The lock is held by the process and its restarts, so that a second start does nothing.
        echo "setsid flock --nonblock --conflict-exit-code=0 $lock $(quote bash \
          "$ROOT/launch/restart.sh" "$log.pid" "${command[@]}") >>$(quote "$log") 2>&1 </dev/null &"
        ;;
      status) echo "flock --nonblock $lock true && echo $number: ended || echo $number: runs" ;;
      logs) quote tail -n 50 "$log" ;;
      stop) echo "flock --nonblock $lock true || kill -TERM \"\$(cat $(quote "$log.pid"))\"" ;;
    esac
  done
}

act text
