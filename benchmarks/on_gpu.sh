#!/usr/bin/env bash
# What a machine with a GPU is for: compile the kernels, test them, watch them with compute-sanitizer, measure them.
#
#   benchmarks/on_gpu.sh [compile] [test] [sanitize] [bench]      all of them, in this order, without any
#
#   PYTHON=python3      an interpreter with PyTorch, CuPy and pytest; JAX and TorchJD are used if they are there
#   WHEELS=FOLDER       wheels of whatever else it lacks (numba, scipy, array-api-compat, ...), installed beside it
#   OUT=FOLDER          where logs and results go; default: gpu-results
#   LIMIT=SECONDS       for each step, in place of its own limit
#
# Each step has a time limit and leaves what it has found by then; one that fails does not stop the others. Ends
# with an error if any has failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-gpu-results}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export CI=true PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" XLA_PYTHON_CLIENT_PREALLOCATE=false

if [[ -n "${WHEELS:-}" ]]; then
    # Without what they depend on: what the interpreter has stays as it is.
    "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$OUT/site" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$PYTHONPATH:$OUT/site"
fi

failed=()

# step NAME SECONDS COMMAND...: runs it, with its output in OUT/NAME.log too.
step() {
    local name=$1 limit=${LIMIT:-$2}
    shift 2
    printf '\n=== %s (at most %s s)\n' "$name" "$limit"
    SECONDS=0
    timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$OUT/$name.log"
    local code=${PIPESTATUS[0]}
    printf '=== %s: exit status %s after %s s\n' "$name" "$code" "$SECONDS" | tee -a "$OUT/$name.log"
    if [[ $code != 0 ]]; then failed+=("$name"); fi
}

# The kernels of one run, watched by one tool: any finding is an error.
sanitize() {
    local tool=$1 limit=$2 found
    found=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
    if [[ -z "$found" ]]; then
        echo "compute-sanitizer is not on the path: it comes with CUDA's toolkit" >&2
        failed+=("sanitize-$tool")
        return
    fi
    # Libraries ask the driver for what they then do without: such answers are no findings.
    step "sanitize-$tool" "$limit" "$found" --tool "$tool" --error-exitcode 1 --report-api-errors no \
        "$PYTHON" -m tests.cuda.every_kernel
}

compile_() { step compile 300 "$PYTHON" benchmarks/run_gpu.py --only compile --json "$OUT/compile.json"; }

# What needs a GPU, and the contract of all solvers for this one. Not in parallel: some of it looks at the clock.
test_() {
    step test 900 "$PYTHON" -m pytest -m gpu tests -p no:cacheprovider
    step contract 600 "$PYTHON" -m pytest tests/contracts/test_solver_contract.py -k "cuda and not host" -p no:cacheprovider
}

sanitize_() {
    sanitize memcheck 600
    sanitize racecheck 600
    sanitize synccheck 600
}

bench_() {
    step bench 480 "$PYTHON" benchmarks/run_gpu.py
    cp -f benchmarks/results/gpu-*.json "$OUT" 2>/dev/null || true
}

steps=("$@")
if [[ ${#steps[@]} == 0 ]]; then steps=(compile test sanitize bench); fi
for name in "${steps[@]}"; do
    case $name in
        compile | test | sanitize | bench) "${name}_" ;;
        *)
            echo "unknown step '$name'; choose from compile, test, sanitize, bench" >&2
            exit 2
            ;;
    esac
done

if [[ ${#failed[@]} != 0 ]]; then
    printf '\nFailed: %s; logs in %s\n' "${failed[*]}" "$OUT" >&2
    exit 1
fi
printf '\nAll passed; logs and results in %s\n' "$OUT"
