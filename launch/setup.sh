#!/usr/bin/env bash
# Makes .venv and installs the package into it; does nothing where that is done already.
#
#   source launch/setup.sh EXTRAS     EXTRAS: "", or some of audio, dev, gcs, tf, ... (see pyproject.toml), with commas
#
# Sets PYTHON to the environment's interpreter. The extra for this machine's accelerator, gpu or tpu, is added.
#
# ACCELERATOR   gpu, tpu or none, instead of what the machine seems to have
# PYTHON_BASE   the Python to start from, 3.11 or newer
set -euo pipefail

extra="${1:-}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$root/.venv/bin/python"

is_new_enough() {
  command -v "$1" > /dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'
}

find_base() {
  local candidate
  if [ -n "${PYTHON_BASE:-}" ]; then
    if is_new_enough "$PYTHON_BASE"; then
      echo "$PYTHON_BASE"
      return
    fi
    echo "error: PYTHON_BASE is '$PYTHON_BASE' but must be a Python of version 3.11 or newer: name one, or unset it." >&2
    return 1
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if is_new_enough "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python of version 3.11 or newer is on the PATH: install one, or name it in PYTHON_BASE." >&2
  return 1
}

if [ -z "${ACCELERATOR:-}" ]; then
  base="$PYTHON"
  [ -x "$base" ] || base="$(find_base)" || exit 1  # said, for a caller may have switched -e off
  ACCELERATOR="$("$base" "$root/simvq_jax/accelerators.py")"
fi
case "$ACCELERATOR" in
  '' | none) ;;
  gpu | tpu) extra="${extra:+$extra,}$ACCELERATOR" ;;
  *)
    echo "error: ACCELERATOR is '$ACCELERATOR' but must be gpu, tpu or none." >&2
    exit 2
    ;;
esac

# What was installed, so that a second call knows at once that nothing is left to do.
wanted="$(cat "$root/requirements.txt" "$root/pyproject.toml" | cksum) $root"
stamp="$root/.venv/installed${extra:+-$extra}"

if [ ! -x "$PYTHON" ] || [ "$(cat "$stamp" 2> /dev/null)" != "$wanted" ]; then
  base="$(find_base)" || exit 1
  echo "setup: installing into .venv (once; about a minute)" >&2
  if ! "$PYTHON" -m pip --version > /dev/null 2>&1; then  # absent, or left half made
    rm -rf "$root/.venv"
    "$base" -m venv "$root/.venv" || {
      echo "error: '$base -m venv' failed: install the venv module (on Debian: apt install python3-venv)." >&2
      exit 1
    }
  fi
  "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable "$root${extra:+[$extra]}" || {
    echo "error: pip could not install what $root/pyproject.toml names (above): mend that, and run this again." >&2
    exit 1
  }
  echo "$wanted" > "$stamp"
fi
