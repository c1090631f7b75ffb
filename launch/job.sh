#!/usr/bin/env bash
# What every process of a job runs: it trains, or goes on with a training, and evaluates the run once it is whole. The
# launchers beside this file start it, each in its way; how processes find each other is told in docs/CLUSTERS.md.
#
#   bash launch/job.sh --config=configs/NAME.py --workdir=RUN [flags of simvq_jax.train]
#
# PYTHON   interpreter to use; else that of launch/setup.sh
# MISTAKE  file to be made where the status is 2, for a scheduler that tells of one status among those of many processes
#
# Exit status: 0, trained to the end and evaluated; 75, stopped before that, by SIGTERM, and to be started again; 130, by
# Ctrl-C; else that of the mistake.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

trap 'if [ $? -eq 2 ] && [ -n "${MISTAKE:-}" ]; then : > "$MISTAKE"; fi' EXIT
workdir="" place=()
for argument in "$@"; do
  case "$argument" in
    --workdir=*) workdir="${argument#--workdir=}" ;;
    -stop_at* | --stop_at*)
      echo "error: $argument would end the job as if it were to be started again: give --config.steps instead." >&2
      exit 2
      ;;
    --coordinator_address=* | --num_processes=* | --process_id=*) place+=("$argument") ;;
  esac
done
if [ -z "$workdir" ]; then
  echo "error: --workdir=RUN is missing: the job goes on in that folder." >&2
  exit 2
fi
if [ -z "${PYTHON:-}" ]; then
  source launch/setup.sh ""
fi

# A signal for the job is for the training, which saves, or for the evaluation, which ends; the job is to go on later.
child="" stopped=""
pass_on() { [ -z "$child" ] || kill -TERM "$child" 2> /dev/null || true; }
trap 'stopped=75; pass_on' TERM
trap 'stopped=130; pass_on' INT  # the shell has a child in the background ignore the keyboard's own
run() {
  [ -z "$stopped" ] || exit "$stopped"
  child=""
  "$PYTHON" "$@" &
  child=$!
  [ -z "$stopped" ] || pass_on  # a signal that came before the child was known
  local status=0
  wait "$child" || status=$?
  while kill -0 "$child" 2> /dev/null; do  # the wait was interrupted, not the training
    status=0
    wait "$child" || status=$?
  done
  if [ -n "$stopped" ] && [ "$status" -ne 0 ] && [ "$status" -ne 2 ]; then status="$stopped"; fi
  return "$status"
}

run -m simvq_jax.train --stopped_status=75 "$@"
run -m simvq_jax.evaluate --run="$workdir" ${place[@]+"${place[@]}"}
