#!/bin/sh
# Installs a lock in an image: sh install.sh FILE.lock
# Then removes what only tests, compilers and C programs use.
set -eu
# A lock is complete, but for what it leaves out on purpose.
pip install --no-deps --require-hashes -r "$1"
cd "$(/opt/boneage/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
find . -type d -name tests -prune -exec rm -rf {} +
rm -rf tensorflow/include pyarrow/include onnx/backend/test \
  onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
  onnxruntime/capi/libonnxruntime.so.* cv2/data/*.xml
