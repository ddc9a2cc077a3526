#!/usr/bin/env bash
# Completes .venv/ with what tests need, checks style, imports and types, builds the documentation in
# build/site/, and runs the tests on the CPU.
#
#   bash launch/test.sh [flags of pytest]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_ttoaa test
cd "$ROOT"
export JAX_PLATFORMS=cpu
"$PYTHON" -m ruff check --quiet .
"$PYTHON" -m ruff format --check --quiet .
imports="$("$VENV/bin/lint-imports" --no-logo --no-cache 2>&1)" || fail "$imports"
(cd launch && "$VENV/bin/shellcheck" --external-sources ./*.sh)
# One core each; both print what they find, and both must pass.
"$PYTHON" -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -c docs . build/site &
checks=0
"$PYTHON" -m mypy || checks=$?
wait "$!" || checks=$?
((checks == 0)) || exit "$checks"
# A file's tests stay on one worker, so that what they share is made once.
exec "$PYTHON" -m pytest -n 2 --dist loadscope --no-loadscope-reorder \
  --durations=10 "$@"
