# shellcheck shell=bash
# Shared by the launchers of jobs: reads their command line, and prints or runs shell text.
#
# A launcher describes its work as shell text. --dry_run prints the text, otherwise bash runs it:
# what is printed is what would run.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
shopt -s inherit_errexit

show_help() { # the comment at the head of the launcher
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0"
}

quote() { # the words as shell text that reads as the same words
  local word text=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    text+=" $word"
  done
  echo "${text# }"
}

# Sets ACTION (one of the words $1), NAME, JOB (the words after --) and DRY_RUN; and for each
# --flag=value among the words $2 a variable in capitals. The value of a flag that has a ? there is
# yes or no, and no is stored as nothing. FLAGS has the flags as they were given.
read_arguments() {
  local actions=" $1 " known=" $2 " flag value
  shift 2
  if [[ $# -eq 0 || " $* " == *" --help "* ]]; then
    show_help
    exit 0
  fi
  [[ "$actions" == *" $1 "* ]] || fail "$1 is not an action: use one of$actions"
  [[ "${2-}" =~ ^[a-z][a-z0-9-]{0,27}$ ]] ||
    fail "$1 needs a name next, of at most 28 letters a-z, digits and hyphens, not '${2-}'"
  ACTION="$1" NAME="$2" DRY_RUN='' FLAGS=() JOB=()
  shift 2
  while [[ $# -gt 0 && "$1" != -- ]]; do
    flag="${1%%=*}" value="${1#*=}"
    flag="${flag#--}"
    if [[ "$1" == --dry_run ]]; then
      DRY_RUN=yes
    elif [[ "$1" == --*=* && "$known" == *" $flag? "* ]]; then
      [[ "$value" == yes || "$value" == no ]] || fail "$1 must be --$flag=yes or --$flag=no"
      printf -v "${flag^^}" %s "${value#no}"
      FLAGS+=("$1")
    elif [[ "$1" == --*=* && "$known" == *" $flag "* ]]; then
      printf -v "${flag^^}" %s "$value"
      FLAGS+=("$1")
    else
      fail "$1 is not a flag: use --dry_run or --flag=value with one of${known//\?/}"
    fi
    shift
  done
  JOB=("${@:2}")
  if [[ "$ACTION" == start || "$ACTION" == watch ]]; then
    [[ ${#JOB[@]} -gt 0 ]] || fail "$ACTION needs a command after --, such as: -- train --workdir=…"
    [[ " train evaluate dependence " == *" ${JOB[0]} "* ]] ||
      fail "${JOB[0]} is not a job: use train, evaluate or dependence"
    [[ "${JOB[*]}" == *--workdir=* ]] || fail "${JOB[0]} needs --workdir=, the folder of the study"
    [[ " ${JOB[*]} " != *" --dry_run "* ]] || fail "--dry_run is a flag of the launcher: put it before --"
  elif [[ ${#JOB[@]} -gt 0 ]]; then
    fail "$ACTION takes no command: ${JOB[*]}"
  fi
}

in_bucket() { # whether the job's study is in a bucket, which all machines see
  [[ " ${JOB[*]} " == *" --workdir=gs://"* ]]
}

required() { # the variables in capitals of the flags $@ must have values
  local flag
  for flag in "$@"; do
    [[ -n "${!flag-}" ]] || fail "$ACTION needs --${flag,,}="
  done
}

command_of() { # a command as text, one flag a line
  local text word
  text="$1"
  for word in "${@:2}"; do
    [[ "$word" == --* ]] && text+=$' \\\n ' || :
    text+=" $(quote "$word")"
  done
  echo "$text"
}

unless() { # run the command $2 if the command $1 fails
  printf '%s >/dev/null 2>&1 ||\n  %s\n' "$1" "${2//$'\n'/$'\n'  }"
}

if_exists() { # run the command $2 if the command $1 finds NAME; fail if it cannot tell
  cat <<EOT
if found="\$($1 2>&1)"; then
  $2
elif ! grep -q "/$NAME' was not found" <<<"\$found"; then
  echo "\$found" >&2
  exit 1
fi
EOT
}

# What TPU machines that are reached by ssh have in common. The launcher defines the texts
# `delete_text`, `create_text`, `running_text`, which lists what runs, a line each, and `on_workers`,
# which runs the command $1 on all machines, after copying the other arguments, files, there.
tpu_machines_text() {
  local archive="/tmp/ttoaa-$NAME.tar.gz" worker="bash ttoaa/launch/worker.sh"
  case "$ACTION" in
    create) create_text ;;
    healthy) echo "running=\"\$($(running_text))\""$'\n'"test \"\$(grep -c . <<<\"\$running\")\" -ge ${HOSTS-1} && echo yes || echo no" ;;
    delete) delete_text ;;
    install)
      command_of git -C "$ROOT" archive --format=tar.gz --output="$archive" HEAD
      install_text "$archive"
      ;;
    start) on_workers "$worker start $(quote "${JOB[@]}")" ;;
    watch) watch_text ;;
    *) on_workers "$worker $ACTION" ;;
  esac
}

install_text() { # unpack the archive $1, and keep the environment file for the service
  local words command file
  file="$(quote "$(basename "$ENV_FILE")")"
  IFS=, read -ra words <<<"$PACKAGES"
  command="mkdir -p ttoaa && tar -xzf $(basename "$1") -C ttoaa"
  if [[ -n "$ENV_FILE" ]]; then
    [[ -n "$DRY_RUN" || -f "$ENV_FILE" ]] || fail "there is no file --env_file=$ENV_FILE"
    command+=" && mv $file ttoaa/job.env && chmod 600 ttoaa/job.env"
  fi
  command+=" && bash ttoaa/launch/worker.sh install $(quote "$NFS" "${words[@]}")"
  on_workers "$command" "$1" ${ENV_FILE:+"$ENV_FILE"}
}

watch_text() { # make the machines again when they were preempted, until the command has ended
  local self job arguments
  self="$(quote bash "$0")" job="$(quote "${JOB[@]}")" arguments="$(quote "$NAME" "${FLAGS[@]}")"
  # A new machine has an empty disk.
  [[ -n "${NFS-}" ]] || in_bucket ||
    fail "watch deletes and creates machines, so it needs --nfs= or a study in a bucket"
  cat <<EOT
while true; do
  if test "\$($self healthy $arguments)" = no; then
    $self delete $arguments &&
      $self create $arguments &&
      $self install $arguments &&
      $self start $arguments -- $job ||
      echo "not started, next attempt in a minute"
  fi
  case "\$($self status $arguments || echo unreachable)" in
    *is=failed*) exit 1 ;;
    *is=active* | *is=activating*) ;;
    *is=inactive*) exit 0 ;;
  esac
  sleep \${WATCH_SECONDS:-60}
done
EOT
}

act() { # print or run the text that the function $1 makes
  local text
  text="$("$1")"
  if [[ -n "$DRY_RUN" ]]; then
    echo "$text"
  else
    exec bash -euo pipefail -c "$text"
  fi
}
