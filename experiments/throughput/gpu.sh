#!/usr/bin/env bash
# What is to be measured on a GPU host, a part for each call, each some minutes:
#   bash gpu.sh scaling OUT              the pipeline with 1, 2, 4, 8 and 16 processes
#   bash gpu.sh training OUT SIZE BATCH  Xception, float32 and bfloat16, ours and timm's beside it
# OUT is a folder for the JSON files; options for the commands may follow (--rounds 3 is the default).
# Where there is no TensorFlow: KERAS_BACKEND=jax.
# It has been run on a CPU only, with a small size.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
part=$1 out=$2
shift 2
mkdir -p "$out"
case $part in
scaling)
  cores=$(nproc)
  for workers in 1 2 4 8 16; do
    if [ "$workers" -gt "$cores" ]; then continue; fi
    boneage bench pipeline --contender boneage-processes --contender limit --workers "$workers" \
      --rounds 3 --out "$out/pipeline-$workers-workers.json" "$@"
  done
  ;;
training)
  size=$1 batch=$2
  shift 2
  for precision in float32 bfloat16; do
    keras=${precision/bfloat16/mixed_bfloat16}
    boneage bench training --backbone xception --size "$size" --batch "$batch" \
      --precision "$keras" --rounds 3 --out "$out/training-$size-$batch-$precision.json" "$@"
    if python -c "import timm" 2>/dev/null; then
      python "$here/timm_training.py" --size "$size" --batch "$batch" --precision "$precision" \
        --rounds 3 --out "$out/timm-$size-$batch-$precision.json" "$@"
    fi
  done
  ;;
*)
  echo "gpu.sh: part $part; expected scaling or training" >&2
  exit 2
  ;;
esac
