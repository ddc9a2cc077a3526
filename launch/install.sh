#!/usr/bin/env bash
# Installs ttoaa into .venv/, for this machine's accelerator or with the given extras.
#
#   bash launch/install.sh [EXTRAS]
#
# Extras are those of docs/install.md, such as cuda13 or cuda13,wandb. A login node has no GPU, so name
# the extra of the GPU nodes there.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_ttoaa "${1-$(accelerator)}"
