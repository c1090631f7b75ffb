#!/usr/bin/env bash
# From a bare machine to a trained tokenizer. No GPU, no download of data.
#
#   bash launch/quickstart.sh          trains SimVQ and the vanilla baseline on bundled photographs, evaluates both on
#                                      held-out regions, writes the reports and prints a table
#   bash launch/quickstart.sh speech   trains SimVQ on bundled speech, evaluates it on held-out sentences and voices, and
#                                      writes the report, in which originals and reconstructions can be heard
#
# A run that was interrupted goes on where it stopped; a finished one is only evaluated again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$1" >&2; }

pictures() {
  say "1/4 training SimVQ (runs/quickstart)"
  "$PYTHON" -m simvq_jax.train --stopped_status=75 --config=configs/quickstart.py --workdir=runs/quickstart
  say "2/4 training the vanilla baseline for the same steps (runs/quickstart_vq)"
  "$PYTHON" -m simvq_jax.train --stopped_status=75 --config=configs/quickstart.py:vq --workdir=runs/quickstart_vq
  say "3/4 evaluating on held-out regions, writing the reports"
  "$PYTHON" -m simvq_jax.report --run=runs/quickstart
  "$PYTHON" -m simvq_jax.report --run=runs/quickstart_vq
  say "4/4 SimVQ beside vanilla VQ"
  "$PYTHON" -m simvq_jax.compare --runs=runs/quickstart,runs/quickstart_vq
  printf '\nOpen runs/quickstart/report.html for pictures and curves.\n'
}

speech() {
  say "1/3 training SimVQ on speech (runs/speech_quickstart)"
  "$PYTHON" -m simvq_jax.train --stopped_status=75 --config=configs/speech_quickstart.py --workdir=runs/speech_quickstart
  say "2/3 evaluating on held-out sentences and voices, writing the report"
  "$PYTHON" -m simvq_jax.report --run=runs/speech_quickstart
  say "3/3 its figures"
  "$PYTHON" -m simvq_jax.compare --runs=runs/speech_quickstart
  printf '\nOpen runs/speech_quickstart/report.html to hear it.\n'
}

case "${1:-pictures}" in
  pictures)
    source launch/setup.sh ""
    pictures
    ;;
  speech)
    source launch/setup.sh audio
    speech
    ;;
  *)
    echo "error: '$1' is no quickstart: give speech, or nothing for pictures." >&2
    exit 2
    ;;
esac
