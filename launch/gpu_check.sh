#!/usr/bin/env bash
# Everything worth running when an accelerator is at hand, in some ten minutes: exactness of every backend, the search
# beside its limits and its peers, the training step, what the recipe's options cost it, and a short training, the last
# three in bfloat16.
#
#   bash launch/gpu_check.sh [OUT]     OUT: folder of the results, benchmarks/results/gpu_check unless given
#
# Every part has a time limit and a log, and none waits for another to succeed. What a part had measured before its
# limit stays: sizes that matter most come first. summary.json tells how the parts ended.
#
# PYTHON        interpreter to use; else that of launch/setup.sh, with what the accelerator needs
# OFFICIAL      folder of a checkout of github.com/youngsheen/SimVQ, to measure it too
# CHECK_ON_CPU  1: every part at a tiny size on the CPU, to test this script
#
# Exit status: 0, no part failed (one whose packages are not installed is left out, and named); 1, one did; 2, there is
# no accelerator.
# shellcheck disable=SC2054  # commas are within the flags' values
set -euo pipefail
trap 'exit 130' INT
cd "$(dirname "${BASH_SOURCE[0]}")/.." && root="$PWD"
cd "$OLDPWD" && mkdir -p "${1:-$root/benchmarks/results/gpu_check}"
out="$(cd "${1:-$root/benchmarks/results/gpu_check}" && pwd)"
cd "$root"

if [ "${CHECK_ON_CPU:-}" = 1 ]; then
  export JAX_PLATFORMS=cpu
  cases=(--most_codes=600)
  limits=(--codebook_sizes=256 --dims=8 --tokens=64 --repeats=2)
  grid=(--codebook_sizes=256,1024 --dims=8 --tokens=64 --repeats=2 --nolimits)
  lengths=(--codebook_sizes=256 --dims=16 --tokens=64 --repeats=2 --nolimits)
  peers=(--codebook_sizes=256 --dims=8 --tokens=64 --repeats=2 --peers=naive_jnp)
  step=(--settings=small --codebook_sizes=64 --batch_size=2 --repeats=1)
  cost=(--setting=small --codebook_size=64 --dim=8 --batch_size=2 --repeats=1)
  training=(--config.steps=2 --config.batch_size=4 --config.model.width=8 --config.model.norm_groups=8
    --config.quantizer.codebook_size=64 --config.quantizer.region_sources=64 --config.data.eval_limit=64)
else
  cases=()
  limits=(--codebook_sizes=65536 --dims=128,512 --tokens=16384 --repeats=20)
  grid=(--codebook_sizes=65536,1024,8192,262144,1048576 --dims=128 --tokens=16384 --repeats=20 --nolimits)
  lengths=(--codebook_sizes=65536 --dims=512,64,256,8 --tokens=16384 --repeats=20 --nolimits)
  peers=(--codebook_sizes=65536,1024 --dims=128 --tokens=16384 --repeats=20
    --peers=naive_jnp,torch_cdist,torch_official,torch_official_compiled,vector_quantize_pytorch)
  step=(--settings=official --codebook_sizes=65536 --batch_size=32 --repeats=10 --calls=3)
  cost=(--setting=official --batch_size=32 --repeats=10 --calls=3)
  training=(--config.steps=100)
fi
# By what an H100 with 16 cores took, and some more; the training's, mostly tuning of convolutions, is a guess. A CPU
# may take its time: there nothing is measured.
seconds_kernels=110 seconds_limits=45 seconds_search=40 seconds_lengths=40 seconds_peers=80 seconds_step=170
seconds_cost=60 seconds_training=100

if [ -z "${PYTHON:-}" ]; then
  [ "${CHECK_ON_CPU:-}" != 1 ] || ACCELERATOR=none
  source launch/setup.sh ""
fi
platform="$("$PYTHON" -c 'import jax; print(jax.default_backend())')" || {
  echo "error: $PYTHON cannot import jax or start its device (above): name another interpreter in PYTHON." >&2
  exit 1
}
if [ "$platform" = cpu ] && [ "${CHECK_ON_CPU:-}" != 1 ]; then
  echo "error: jax of $PYTHON sees no accelerator: run this beside one, or set CHECK_ON_CPU=1 to test the script." >&2
  exit 2
fi

export XLA_PYTHON_CLIENT_PREALLOCATE=false  # PyTorch needs its share of the device
scratch="$(mktemp -d)"
if [ "$platform" != cpu ]; then  # recipe_cost runs a program of train_step; XLA for CPUs complains about kept ones
  export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$scratch/programs}"
fi
trap 'rm -rf "$scratch"' EXIT
rm -f "$out"/{summary,kernels,train_step,recipe_cost}.json "$out"/{limits,search,lengths,peers}.{json,md} "$out"/*.log \
  "$out"/metrics.jsonl
results=() failed=0 left_out=0

# Ends the part with this entry of the summary, which is whole after every part.
record() {
  results+=("$1")
  local joined
  joined="$(printf ',\n    %s' "${results[@]}")"
  printf '{\n  "platform": "%s",\n  "parts": [%s\n  ]\n}\n' "$platform" "${joined#,}" > "$out/summary.json"
}

# What Python lacks to import these modules: the name of a package, or nothing.
lacks() {
  "$PYTHON" -c "import $1" 2>&1 | sed -n "s/^ModuleNotFoundError: No module named '\([^'.]*\).*/\1/p" \
    | grep -vE '^(simvq_jax|benchmarks|configs)$' || true
}

# part NAME SECONDS MODULES COMMAND...: runs the command unless a package that the modules import is missing.
part() {
  local name="$1" limit="$2" missing status=0 began=$SECONDS
  [ "${CHECK_ON_CPU:-}" != 1 ] || limit=1200
  missing="$(lacks "$3")"
  shift 3
  if [ -n "$missing" ]; then
    echo "$name: left out, the package $missing is not installed."
    record "{\"part\": \"$name\", \"left_out\": \"the package $missing is not installed\"}"
    left_out=$((left_out + 1))
    return
  fi
  echo "$name: up to $limit seconds"
  timeout --foreground --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
  record "{\"part\": \"$name\", \"exit_status\": $status, \"seconds\": $((SECONDS - began))}"
  if [ "$status" -eq 0 ]; then
    echo "$name: passed in $((SECONDS - began)) seconds"
    return
  fi
  failed=$((failed + 1))
  tail -n 15 "$out/$name.log"
  case "$status" in
    124 | 137) echo "$name: FAILED, it ran past its $limit seconds; $out/$name.log" ;;
    *) echo "$name: FAILED with exit status $status; $out/$name.log" ;;
  esac
}

part kernels "$seconds_kernels" benchmarks.device_check \
  "$PYTHON" -m benchmarks.device_check "${cases[@]}" --out="$out/kernels.json"
# ours NAME SECONDS FLAGS...: the part that times our search alone, and that its indices are right.
ours() {
  local name="$1" limit="$2"
  shift 2
  part "$name" "$limit" benchmarks.search \
    "$PYTHON" -m benchmarks.search "$@" --peers=none --passes=forward --memory_gb=40 --out="$out/$name.json"
  if [ -f "$out/$name.json" ]; then
    # shellcheck disable=SC2016  # the inner shell expands it
    part "${name}_exactness" 5 sys bash -c '! grep -n "\"wrong_indices\": [1-9]" "$1"' _ "$out/$name.json"
  fi
}

ours limits "$seconds_limits" "${limits[@]}"
ours search "$seconds_search" "${grid[@]}"
ours lengths "$seconds_lengths" "${lengths[@]}"
part peers "$seconds_peers" benchmarks.search \
  "$PYTHON" -m benchmarks.search "${peers[@]}" --nolimits --memory_gb=40 --official="${OFFICIAL:-}" --out="$out/peers.json"
part train_step "$seconds_step" "benchmarks.train_step, skimage" \
  "$PYTHON" -m benchmarks.train_step "${step[@]}" --dtype=bfloat16 --official="${OFFICIAL:-}" --out="$out/train_step.json"
part recipe_cost "$seconds_cost" "benchmarks.recipe_cost, skimage" \
  "$PYTHON" -m benchmarks.recipe_cost "${cost[@]}" --dtype=bfloat16 --out="$out/recipe_cost.json"
part training "$seconds_training" "simvq_jax.train, skimage" \
  "$PYTHON" -m simvq_jax.train --config=configs/quickstart.py --workdir="$scratch/run" --config.dtype=bfloat16 \
  "${training[@]}"
cp "$scratch/run/metrics.jsonl" "$out/" 2> /dev/null || true

echo "$((${#results[@]} - failed - left_out)) passed, $failed failed, $left_out left out; results are in $out"
[ "$failed" -eq 0 ]
