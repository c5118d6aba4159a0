#!/bin/sh
# Installs packages in an image: sh install.sh [OPTION…] WHAT…
# Then removes what only tests, compilers and C programs use.
set -eu
# With SOURCE_DATE_EPOCH, compiled modules are bound to the hash of their source. Two builds are then
# equal, and a change of the files' dates makes none of them invalid.
export SOURCE_DATE_EPOCH=315532800 PIP_PYTHON=/opt/boneage/bin/python
# A lock is complete, but for what it leaves out on purpose.
pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
  --only-binary=:all: --no-deps "$@"
cd "$(/opt/boneage/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
find . -type d -name tests -prune -exec rm -rf {} +
rm -rf tensorflow/include pyarrow/include onnx/backend/test \
  onnxruntime/quantization onnxruntime/tools onnxruntime/transformers \
  onnxruntime/capi/libonnxruntime.so.* cv2/data/*.xml
