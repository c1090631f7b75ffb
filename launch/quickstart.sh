#!/usr/bin/env bash
# From a bare machine to a trained tokenizer: installs, trains SimVQ and the vanilla baseline on bundled photographs,
# evaluates both on held-out regions, writes the reports and prints a table. No GPU, no download of data.
#
#   bash launch/quickstart.sh
#
# A run that was interrupted goes on where it stopped; a finished one is only evaluated again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh ""

say() { printf '\n== %s\n' "$1" >&2; }

say "1/4 training SimVQ (runs/quickstart)"
"$PYTHON" -m simvq_jax.train --config=configs/quickstart.py --workdir=runs/quickstart
say "2/4 training the vanilla baseline for the same steps (runs/quickstart_vq)"
"$PYTHON" -m simvq_jax.train --config=configs/quickstart.py:vq --workdir=runs/quickstart_vq
say "3/4 evaluating on held-out regions, writing the reports"
"$PYTHON" -m simvq_jax.report --run=runs/quickstart
"$PYTHON" -m simvq_jax.report --run=runs/quickstart_vq
say "4/4 SimVQ beside vanilla VQ"
"$PYTHON" -m simvq_jax.compare --runs=runs/quickstart,runs/quickstart_vq
printf '\nOpen runs/quickstart/report.html for pictures and curves.\n'
