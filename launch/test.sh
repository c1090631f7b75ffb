#!/usr/bin/env bash
# Lints, checks types and runs the tests. Arguments go to pytest.
#
#   bash launch/test.sh         what is not marked slow
#   bash launch/test.sh --all   also the slow tests: whole trainings, many processes, interruptions, launchers
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ACCELERATOR=none source launch/setup.sh dev  # tests run on the CPU

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m mypy
# Two at a time: most of it is compilation, which uses one core. A file's tests stay together, for they share runs.
"$PYTHON" -m pytest --numprocesses=2 --dist=loadfile "$@"
