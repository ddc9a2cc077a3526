# shellcheck shell=bash
# Shared by the launchers: finds a Python, makes .venv/, installs ttoaa into it.
#
# The versions are those that were tested with the Python found: a file of constraints/.
# CONSTRAINTS in the environment names another file; CONSTRAINTS=none lets pip choose.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

fits() { # whether the command $1 is a Python that ttoaa runs on
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3 python; do
    if fits "$name"; then
      command -v "$name"
      return
    fi
  done
  fail "needs Python 3.11, 3.12 or 3.13, and found none: install one (on Debian and Ubuntu:" \
    "apt-get install python3 python3-venv)"
}

make_venv() {
  local base
  [[ ! -x "$PYTHON" ]] || fail "$VENV has a Python that ttoaa does not run on: remove that folder"
  base="$(find_python)"
  "$base" -m venv --clear --without-pip "$VENV" || fail "$base could not make $VENV"
}

ensure_pip() {
  local base
  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    base="$("$PYTHON" -c 'import sys; print(sys._base_executable)')"
    # Debian has ensurepip in a separate package; a pip outside the environment can replace it.
    "$PYTHON" -m ensurepip --upgrade --default-pip >/dev/null 2>&1 ||
      "$base" -m pip --quiet --python "$PYTHON" install pip 2>/dev/null ||
      fail "$base has neither ensurepip nor a recent pip: install one (on Debian and Ubuntu:" \
        "apt-get install python3-venv)"
  fi
}

constraints() { # the file of versions to install; nothing where pip is to choose
  case "${CONSTRAINTS-default}" in
    default)
      if "$PYTHON" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
        echo "$ROOT/constraints/jax-0.10.txt" # JAX 0.11 dropped Python 3.11
      else
        echo "$ROOT/constraints/jax-0.12.txt"
      fi
      ;;
    '' | none) ;;
    *) realpath -e "$CONSTRAINTS" 2>/dev/null || fail "there is no file CONSTRAINTS=$CONSTRAINTS" ;;
  esac
}

accelerator() { # the extra that this machine's accelerator needs; nothing where it has none
  local gpus
  # A line for each GPU, such as "580.65.06, 9.0"; without a GPU a message.
  gpus="$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null || true)"
  if [[ "$gpus" =~ ^([0-9]+)\.[0-9.]*,\ *([0-9]+)\.([0-9]+) ]]; then
    # JAX's CUDA 13 needs driver 580 and compute capability 7.5.
    if ((BASH_REMATCH[1] >= 580 && BASH_REMATCH[2] * 10 + BASH_REMATCH[3] >= 75)); then
      echo cuda13
    else
      echo cuda12
    fi
  elif [[ -n "${TPU_ACCELERATOR_TYPE:-}" ]] || has_tpu; then
    echo tpu
  fi
}

has_tpu() { # whether there is a TPU on the PCI bus, by the numbers that JAX looks for
  local device ids
  for device in "${PCI_DEVICES:-/sys/bus/pci/devices}"/*; do
    ids="$(cat "$device/vendor" "$device/device" 2>/dev/null | tr -d '\n')"
    case "$ids" in 0x1ae00x0027 | 0x1ae00x0056 | 0x1ae00x005e | 0x1ae00x006[23f] | 0x1ae00x0076) return 0 ;; esac
  done
  return 1
}

install_ttoaa() { # the core and, if given, the extra $1; nothing to do where that was done before
  local extra="${1:-}" stamp versions wanted log="$VENV/install.log" started=$SECONDS
  fits "$PYTHON" || make_venv
  stamp="$VENV/installed-${extra:-core}"
  versions="$(constraints)"
  wanted="$(echo "$ROOT" && cat "$ROOT/setup.py" "$ROOT/pyproject.toml" ${versions:+"$versions"})"
  if [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]; then
    echo "install: $VENV is complete${extra:+ with [$extra]}"
    return
  fi
  ensure_pip
  echo "install: ttoaa${extra:+[$extra]} into $VENV (3 GB, a few minutes; log in install.log)"
  rm -f "$stamp"
  if ! (cd "$ROOT" && "$PYTHON" -m pip --disable-pip-version-check --no-color install \
    --progress-bar off ${versions:+--constraint "$versions"} \
    --editable ".${extra:+[$extra]}" 2>&1) | tee "$log" | show_last "$started"; then
    tail -n 15 "$log" >&2
    fail "the installation failed, see $log"
  fi
  echo "$wanted" >"$stamp"
  echo "install: done in $((SECONDS - started)) s"
}

show_last() { # the last line of what comes in, on one line of a terminal, with the time since $1
  local line='' next started="$1" code
  while true; do
    code=0
    IFS= read -r -t 1 next || code=$?
    if [[ $code -eq 0 ]]; then line="$next"; elif [[ $code -le 128 ]]; then break; fi
    [[ ! -t 1 ]] || printf '\r\033[K[%d s] %.68s' $((SECONDS - started)) "$line"
  done
  [[ ! -t 1 ]] || printf '\r\033[K'
}
