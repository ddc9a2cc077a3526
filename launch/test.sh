#!/usr/bin/env bash
# Completes .venv/ with what tests need, then lints, checks types and runs the tests on the CPU.
#
#   bash launch/test.sh [flags of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_ttoaa test
cd "$ROOT"
export JAX_PLATFORMS=cpu
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --check --quiet .
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest -n 2 "$@"
