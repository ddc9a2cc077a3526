#!/usr/bin/env bash
# Installs ttoaa into .venv/ and runs the quickstart study, or what is left of it.
#
#   bash launch/quickstart.sh [--seeds=0,1,2] [other flags of ttoaa.study]
#
# The study goes to runs/quickstart/, or to the folder named by WORKDIR in the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_ttoaa "$(accelerator)"
# In place of this shell, so that signals reach the study, which then saves and stops.
exec "$PYTHON" -m ttoaa.study --gin_file="$ROOT/configs/quickstart.gin" \
  --workdir="${WORKDIR:-$ROOT/runs/quickstart}" "$@"
