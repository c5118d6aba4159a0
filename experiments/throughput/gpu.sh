#!/usr/bin/env bash
# Measurements for a GPU host. Each part takes some minutes:
#   bash gpu.sh scaling OUT              the pipeline with 1, 2, 4, 8 and 16 processes
#   bash gpu.sh training OUT SIZE BATCH  Xception in float32 and bfloat16, ours and timm's
# OUT is a folder for the JSON files. Options of the commands may follow (default: --rounds 3).
# Without TensorFlow, set KERAS_BACKEND=jax.
# This script has been run only on a CPU, with a small size.
set -euo pipefail
part=$1 out=$2
shift 2
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.." # the clone
case $part in
scaling)
  cores=$(nproc)
  for workers in 1 2 4 8 16; do
    if [ "$workers" -gt "$cores" ]; then continue; fi
    python -m experiments.throughput.benchmark pipeline --contender boneage-processes --contender limit --workers "$workers" \
      --rounds 3 --out "$out/pipeline-$workers-workers.json" "$@"
  done
  ;;
training)
  size=$1 batch=$2
  shift 2
  for precision in float32 bfloat16; do
    keras=${precision/bfloat16/mixed_bfloat16}
    python -m experiments.throughput.benchmark training --backbone xception --size "$size" --batch "$batch" \
      --precision "$keras" --rounds 3 --out "$out/training-$size-$batch-$precision.json" "$@"
    if python -c "import timm" 2>/dev/null; then
      python -m experiments.throughput.timm_training --size "$size" --batch "$batch" --precision "$precision" \
        --rounds 3 --out "$out/timm-$size-$batch-$precision.json" "$@"
    fi
  done
  ;;
*)
  echo "gpu.sh: unknown part $part. Use scaling or training." >&2
  exit 2
  ;;
esac
