#!/usr/bin/env bash
# Lints, checks types and runs the tests. Arguments go to pytest.
#
#   bash launch/test.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ACCELERATOR=none source launch/setup.sh dev  # tests run on the CPU

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
"$PYTHON" -m pytest "$@"
