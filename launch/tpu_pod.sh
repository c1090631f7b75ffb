#!/usr/bin/env bash
# A training on all workers of a Cloud TPU, asked for as a queued resource and asked for again when it is preempted.
#
#   bash launch/tpu_pod.sh run --config=configs/NAME.py --workdir=gs://BUCKET/RUN [flags of simvq_jax.train]
#       waits for the TPU, installs this commit on every worker, trains until the run is whole, gives the TPU back
#   bash launch/tpu_pod.sh create | install | logs | stop | delete       the parts, one at a time
#
# NAME      of the TPU and its queued resource; simvq unless given
# ZONE      as us-west4-a; must be given
# TYPE      as v5litepod-256; must be given
# RUNTIME   v2-alpha-tpuv5-lite unless given
# SPOT      1: a TPU that can be preempted, at a lower price
# TRIES     how often a TPU is asked for at most; 100 unless given
# PROJECT   of Google Cloud; that of gcloud's own configuration unless given
#
# RUN must lie where all workers see it: in a bucket, or on a mounted file system. Exit status: 0, the run is whole.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
NAME="${NAME:-simvq}" RUNTIME="${RUNTIME:-v2-alpha-tpuv5-lite}" TRIES="${TRIES:-100}" POLL="${POLL:-30}"

say() { printf '%s  %s\n' "$(date +%T)" "$1" >&2; }

fail() {
  echo "error: $1" >&2
  exit 2
}

tpus() { gcloud compute tpus "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}; }

on_all() { tpus tpu-vm ssh "$NAME" --worker=all --command="$1"; }

# Empty where there is none, and where the service does not answer.
state() { tpus queued-resources describe "$NAME" --format='value(state.state)' 2> /dev/null || true; }

is_lost() { case "$1" in FAILED | SUSPENDING | SUSPENDED | DELETING) return 0 ;; *) return 1 ;; esac; }

# Asks for the TPU unless that is done, and waits until it is there. Status 1: it will not come of this.
create() {
  local found
  found="$(state)"
  if is_lost "$found"; then
    say "$NAME is $found: given back"
    delete || true
    return 1
  fi
  if [ -z "$found" ]; then
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
      --runtime-version="$RUNTIME" ${SPOT:+--spot} || return 1
  fi
  until found="$(state)" && [ "$found" = ACTIVE ]; do
    if is_lost "$found"; then return 1; fi
    say "$NAME is ${found:-not to be seen}"
    sleep "$POLL"
  done
  say "$NAME is there"
}

# The commit that is checked out here, and its dependencies. git leaves out what is not committed, and says so. What fails
# ends it, though its caller has switched -e off: the workers may hold an older commit.
install() {
  if [ -n "$(git status --porcelain)" ]; then
    say "changes that are not committed stay behind"
  fi
  local archive
  archive="$(mktemp --suffix=.tar.gz)"
  git archive --format=tar.gz --output="$archive" HEAD || return 1
  tpus tpu-vm scp "$archive" "$NAME:/tmp/simvq_jax.tar.gz" --worker=all || return 1
  rm -f "$archive"
  on_all "mkdir -p ~/simvq_jax && tar -xzf /tmp/simvq_jax.tar.gz -C ~/simvq_jax && cd ~/simvq_jax && ACCELERATOR=tpu bash launch/setup.sh gcs"
}

# What a worker answers; nothing where it cannot be reached.
ask() { tpus tpu-vm ssh "$NAME" --worker=0 --command="$1" || true; }

is_running() { [ "$(ask 'pgrep -f [l]aunch/job.sh > /dev/null && echo yes')" = yes ]; }

start() {
  local job
  job="PYTHON=.venv/bin/python bash launch/job.sh $(printf '%q ' "$@"); echo \$? > job.status"
  # Leftovers hold the chips. The brackets keep a command from finding itself.
  on_all 'pkill -KILL -f [l]aunch/job.sh; pkill -KILL -f [s]imvq_jax.train; pkill -KILL -f [s]imvq_jax.evaluate; true'
  on_all "cd ~/simvq_jax && rm -f job.status && printf '%s\n' $(printf '%q' "$*") > job.flags && (setsid nohup bash -c $(printf '%q' "$job") >> job.log 2>&1 < /dev/null &)"
}

# Whether a worker has met a mistake, whose end worker 0 may have taken for a loss.
met_a_mistake() {
  local statuses  # all of them first: grep ends at the first match, and a worker may be out of reach
  statuses="$(on_all 'cat ~/simvq_jax/job.status 2> /dev/null || true')" || true
  grep -qx 2 <<< "$statuses"
}

# Training outlives the connection: it runs detached, and this waits for the status that it leaves behind. A worker that
# answers but has neither a job nor a status has been started anew.
wait_for_end() {
  local status gone=0
  while true; do
    if is_lost "$(state)"; then return 75; fi
    status="$(ask 'cd ~/simvq_jax; cat job.status 2> /dev/null || { pgrep -f [l]aunch/job.sh > /dev/null && echo running; } || echo gone')"
    case "$status" in
      '' | running) gone=0 ;;
      gone)
        gone=$((gone + 1))
        if [ "$gone" -ge 2 ]; then return 75; fi  # once may be between the job's end and its status
        ;;
      0) return ;;
      *) if met_a_mistake; then return 2; else return "$status"; fi ;;
    esac
    sleep "$POLL"
  done
}

delete() { tpus queued-resources delete "$NAME" --force --quiet; }

run() {
  local status found
  for ((try = 1; try <= TRIES; try++)); do
    if ! create; then
      sleep "$POLL"
      continue
    fi
    status=0
    if is_running; then
      found="$(ask 'cat ~/simvq_jax/job.flags 2> /dev/null')"
      [ "$found" = "$*" ] || fail "another job runs on $NAME (${found:-of unknown flags}): wait for it, or give another NAME."
      say "this job is running there: waits for its end"
    else
      { install && start "$@"; } || status=75
    fi
    [ "$status" -ne 0 ] || wait_for_end || status=$?
    case "$status" in
      0)
        delete || true
        say "trained and evaluated"
        return
        ;;
      2)
        on_all 'tail -n 5 ~/simvq_jax/job.log' || true
        delete || true
        fail "a mistake in the command or the data (above), which another start would not mend"
        ;;
    esac
    say "ended with status $status before its end: goes on"
  done
  fail "not whole after $TRIES tries (TRIES): the same command goes on"
}

command="${1:-}"
[ $# -eq 0 ] || shift
case "$command" in
  run | create | install | logs | stop | delete) ;;
  *) fail "'$command' is no command: give run, create, install, logs, stop or delete." ;;
esac
[ -n "${ZONE:-}" ] || fail "ZONE is not set: name the zone of the TPU, as ZONE=us-west4-a."
case "$command" in
  run | create) [ -n "${TYPE:-}" ] || fail "TYPE is not set: name the accelerator's type, as TYPE=v5litepod-256." ;;
esac
case "$command" in
  run) run "$@" ;;
  create) create || fail "$NAME is $(state): ask again with the same command." ;;
  install) install ;;
  logs) tpus tpu-vm ssh "$NAME" --worker=0 --command='tail -n 100 -f ~/simvq_jax/job.log' ;;
  stop) on_all 'pkill -TERM -f [s]imvq_jax.train || true' ;;
  delete) delete ;;
esac
