#!/usr/bin/env bash
# Runs a command, and runs it again when it fails, five times at most.
#
#   bash launch/restart.sh PIDFILE COMMAND
#
# PIDFILE gets the number of this process, and the command on its second line.
# SIGTERM is passed on to the command, which is then not started again.
set -uo pipefail
printf '%s\n' "$$" "${*:2}" >"$1"
shift

stopped='' child=''
trap 'stopped=yes; [[ -z "$child" ]] || kill -TERM "$child" 2>/dev/null' TERM

run() { # a command; SIGTERM, before or while it runs, reaches it and ends this script
  local code
  "$@" &
  child=$!
  [[ -z "$stopped" ]] || kill -TERM "$child"
  wait "$child"
  code=$?
  [[ -n "$stopped" ]] || return "$code"
  wait "$child" # the signal ended the wait, not yet the command
  exit "$?"
}

for _ in {0..5}; do
  run "$@" && exit 0
  code=$?
  echo "restart.sh: ended with status $code"
  run sleep "${RESTART_SECONDS:-10}"
done
exit "$code"
