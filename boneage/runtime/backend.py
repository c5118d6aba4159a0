"""The backend that Keras computes with, and its CUDA libraries, found without an import."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
from pathlib import Path

from boneage.errors import InputError
from boneage.runtime.files import home_folder, read_json
from boneage.runtime.provenance import package_versions

_CUDA_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu13", "nvidia-cuda-runtime-cu12")
_JAX_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")


def keras_home() -> Path:
    """Return the folder of Keras' settings and of downloaded weights."""
    return Path(os.environ.get("KERAS_HOME") or home_folder() / ".keras")


def keras_backend() -> str:
    """Return the name of the backend, as Keras chooses it: the environment, then `keras.json`."""
    if chosen := os.environ.get("KERAS_BACKEND"):
        return chosen
    with contextlib.suppress(InputError):  # Keras passes over a file that it can't read
        return str(read_json(keras_home() / "keras.json").get("backend", "tensorflow"))
    return "tensorflow"


def cuda_version() -> str | None:
    """Return the version of the CUDA libraries that are installed as wheels, or None."""
    return next(iter(package_versions(_CUDA_WHEELS).values()), None)


def uses_cuda(backend: str) -> bool:
    """Return whether the installed backend would compute on an NVIDIA card."""
    if backend == "jax":
        return bool(package_versions(_JAX_PLUGINS))
    if backend == "tensorflow" and not package_versions(("tensorflow",)):
        return False  # tensorflow-cpu
    return cuda_version() is not None or ctypes.util.find_library("cudart") is not None
