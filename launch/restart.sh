#!/usr/bin/env bash
# Runs a command, and runs it again when it fails, five times at most.
#
#   bash launch/restart.sh PIDFILE COMMAND
#
# SIGTERM is passed on to the command, which is then not started again.
set -uo pipefail
echo "$$" >"$1"
shift

stopped=''
trap 'stopped=yes; kill -TERM "$child"' TERM
for _ in {0..5}; do
  "$@" &
  child=$!
  wait "$child"
  code=$?
  if [[ -n "$stopped" ]]; then # the signal ended the wait, not yet the command
    wait "$child"
    exit "$?"
  fi
  [[ "$code" != 0 ]] || exit 0
  echo "restart.sh: ended with status $code"
  sleep "${RESTART_SECONDS:-10}"
done
exit "$code"
