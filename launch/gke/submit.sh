#!/usr/bin/env bash
# A training on Google Kubernetes Engine, as a JobSet of TPU or GPU nodes that starts again when one of them is lost.
#
#   bash launch/gke/submit.sh tpu|gpu --config=configs/NAME.py --workdir=gs://BUCKET/RUN [flags of simvq_jax.train]
#
# IMAGE         made by launch/gke/Dockerfile and pushed; must be given
# NAME          of the JobSet; from the run's name unless given
# PROCESSES     hosts of the slice, or GPU nodes; 2 unless given
# CHIPS         of a host; 4 for a TPU and 8 for GPUs unless given
# CHIP_TYPE     tpu-v5-lite-podslice, or nvidia-h100-80gb, unless given
# TOPOLOGY      of the slice; 2x4 unless given
# RESTARTS      how often at most; 100 unless given
# DRY_RUN       1: print the manifest, submit nothing
#
# Needs kubectl, set up for a cluster with JobSet (jobset.sigs.k8s.io).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() {
  echo "error: $1" >&2
  exit 2
}

kind="${1:-}"
case "$kind" in
  tpu) : "${CHIPS:=4}" "${CHIP_TYPE:=tpu-v5-lite-podslice}" "${TOPOLOGY:=2x4}" ;;
  gpu) : "${CHIPS:=8}" "${CHIP_TYPE:=nvidia-h100-80gb}" "${TOPOLOGY:=}" ;;
  *) fail "'$kind' is no kind of node: give tpu or gpu." ;;
esac
shift
[ -n "${IMAGE:-}" ] || fail "IMAGE is not set: name the image that launch/gke/Dockerfile makes."
workdir=""
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
[ -n "$workdir" ] || fail "--workdir=RUN is missing: give a bucket, or a volume that all pods mount."
name="$(basename "$workdir" | tr 'A-Z_.' 'a-z--' | tr -cd 'a-z0-9-')"
: "${NAME:=simvq-$name}" "${PROCESSES:=2}" "${RESTARTS:=100}"

# A list of JSON strings, which YAML reads as well.
quoted() {
  local text sep=""
  printf '['
  for argument in "$@"; do
    text="${argument//\\/\\\\}"
    printf '%s"%s"' "$sep" "${text//\"/\\\"}"
    sep=", "
  done
  printf ']'
}

manifest="$(cat "$kind.yaml")"
for variable in NAME IMAGE PROCESSES CHIPS CHIP_TYPE TOPOLOGY RESTARTS; do
  manifest="${manifest//"\${$variable}"/"${!variable}"}"
done
manifest="${manifest//"\${ARGUMENTS}"/"$(quoted "$@")"}"
if [ "${DRY_RUN:-}" = 1 ]; then
  printf '%s\n' "$manifest"
else
  printf '%s\n' "$manifest" | kubectl apply -f -
fi
