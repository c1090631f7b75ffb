#!/usr/bin/env bash
# One job of several processes on this machine: to try what a cluster will do, or a process for each of its GPUs.
#
#   bash launch/local.sh PROCESSES --config=configs/NAME.py --workdir=RUN [flags of simvq_jax.train]
#
# DEVICES   simulated CPU devices of each process; unset on a machine whose devices are to be used
#
# The machine's GPUs are shared out evenly. Each process logs to RUN.process0.log, RUN.process1.log, ...; what process 0
# says is shown as well; of a RUN in a bucket they lie in runs/. SIGTERM and Ctrl-C go to all. Exit status: 2 if a process has
# met a mistake, else that of the first that did not end well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

processes="${1:-}"
case "$processes" in
  '' | *[!0-9]* | 0*)
    echo "error: '$processes' is no number of processes: bash launch/local.sh PROCESSES --config=... --workdir=..." >&2
    exit 2
    ;;
esac
shift
workdir="run"
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
workdir="${workdir/#\~\//$HOME/}" workdir="${workdir%/}"

if [ -z "${PYTHON:-}" ]; then
  source launch/setup.sh ""
fi
export PYTHON
if [ -n "${DEVICES:-}" ]; then
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi
gpus=0
if [ "${JAX_PLATFORMS:-}" != cpu ] && command -v nvidia-smi > /dev/null; then
  gpus="$(nvidia-smi -L | grep -c '^GPU ' || true)"
fi
port="$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')"
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$processes"

# The GPUs of process $1, as jax counts them: 0,1,2,3
share() {
  local each=$((gpus / processes))
  seq -s, $(($1 * each)) $((($1 + 1) * each - 1))
}

case "$workdir" in
  gs://*) logs="runs/$(basename "$workdir")" ;;  # of a run in a bucket what is said stays here
  *) logs="$workdir" ;;
esac
mkdir -p "$(dirname "$logs")"
children=() stopped=""
pass_on() { kill -TERM ${children[@]+"${children[@]}"} 2> /dev/null || true; }
trap 'stopped=1; pass_on' TERM INT
for ((p = 0; p < processes; p++)); do
  : > "$logs.process$p.log"  # there before tail looks for it
  (
    export JAX_PROCESS_ID="$p"
    if [ "$gpus" -ge "$processes" ]; then
      JAX_LOCAL_DEVICE_IDS="$(share "$p")"
      export JAX_LOCAL_DEVICE_IDS
    fi
    exec bash launch/job.sh "$@"
  ) > "$logs.process$p.log" 2>&1 &
  children+=($!)
done
tail -n +1 -f --pid=$$ "$logs.process0.log" &
shown=$!
[ -z "$stopped" ] || pass_on  # a signal that came before all were known

failed=0
for ((p = 0; p < processes; p++)); do
  status=0
  wait "${children[p]}" || status=$?
  while kill -0 "${children[p]}" 2> /dev/null; do  # the wait was interrupted by a signal
    status=0
    wait "${children[p]}" || status=$?
  done
  if [ "$status" -ne 0 ]; then
    echo "process $p ended with status $status: $logs.process$p.log" >&2
    if [ "$failed" -eq 0 ] || [ "$status" -eq 2 ]; then failed="$status"; fi  # a mistake is the cause of the others
  fi
done
sleep 0.2
kill "$shown" 2> /dev/null || true
exit "$failed"
