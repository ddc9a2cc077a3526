#!/usr/bin/env bash
# Runs on a TPU machine, where the launchers copy it: keeps one command of ttoaa running.
#
#   bash ttoaa/launch/worker.sh install [NFS] [PACKAGES]   into .venv/; mounts NFS at /studies
#   bash ttoaa/launch/worker.sh start COMMAND              as a service; nothing if it runs already
#   bash ttoaa/launch/worker.sh status | logs | stop
#
# The service restarts after a failure and a reboot. A shutdown or maintenance sends SIGTERM, upon
# which training saves. Only training joins the machines of a slice: other commands use the chips of
# their own machine, and share the work.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
UNIT="${UNIT:-/etc/systemd/system/ttoaa.service}"
export PATH="$HOME/.local/bin:$PATH"

mount_studies() { # the NFS share $1, now and at every boot
  command -v mount.nfs >/dev/null || { sudo apt-get update && sudo apt-get install -y nfs-common; }
  grep -q ' /studies ' /etc/fstab ||
    echo "$1 /studies nfs defaults,_netdev 0 0" | sudo tee -a /etc/fstab
  sudo mkdir -p /studies
  mountpoint -q /studies || sudo mount /studies
  sudo chmod 1777 /studies
}

install_without_tensorflow() { # and the packages $@; uv brings a Python; that of the image can be too old
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  cd "$ROOT"
  [[ -x .venv/bin/python ]] || uv venv --python 3.13 .venv
  uv pip install --python .venv/bin/python -r constraints/pod.txt -c constraints/jax-0.12.txt \
    'jax[tpu]' gcsfs "$@"
  uv pip install --python .venv/bin/python --no-deps .
}

machines() { # how many machines this slice has
  local attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes
  curl -sf -m 5 -H 'Metadata-Flavor: Google' "$attributes/worker-network-endpoints" |
    tr ',' '\n' | grep -c . || true
}

start() {
  local bounds='' job
  if [[ "$1" != train && "$(machines)" -gt 1 ]]; then # machines of slices have 4 chips
    bounds=$'export TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=2,2,1\n'
  fi
  job="#!/usr/bin/env bash"$'\n'"${bounds}exec $ROOT/.venv/bin/ttoaa ${*@Q}"
  if systemctl is-active --quiet ttoaa; then
    [[ "$(cat "$ROOT/job.sh")" == "$job" ]] || {
      echo "worker.sh: another command runs here: stop it first" >&2
      exit 1
    }
    echo "worker.sh: runs already"
    return
  fi
  echo "$job" >"$ROOT/job.sh"
  sudo tee "$UNIT" >/dev/null <<EOT
[Unit]
Description=ttoaa $1
Wants=network-online.target
After=network-online.target remote-fs.target
StartLimitIntervalSec=3600
StartLimitBurst=20

[Service]
User=$(id -un)
WorkingDirectory=$ROOT
EnvironmentFile=-$ROOT/job.env
ExecStart=/bin/bash $ROOT/job.sh
Restart=on-failure
RestartSec=30
KillMode=mixed
TimeoutStopSec=120

[Install]
WantedBy=multi-user.target
EOT
  sudo systemctl daemon-reload
  sudo systemctl reset-failed ttoaa 2>/dev/null || true
  sudo systemctl enable ttoaa
  sudo systemctl start ttoaa
}

case "${1-}" in
  install)
    [[ -z "${2-}" ]] || mount_studies "$2"
    install_without_tensorflow "${@:3}"
    ;;
  start) start "${@:2}" ;;
  status) echo "$(hostname): is=$(systemctl is-active ttoaa || true)" ;;
  logs) sudo journalctl --unit=ttoaa --output=cat --lines=100 --no-pager ;;
  stop) sudo systemctl disable --now ttoaa ;;
  *) sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0" ;;
esac
