"""Say which extra of boneage brings a package that is not installed."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

_TRAIN = (
    *("albumentations", "cloudpickle", "defusedxml", "filelock", "h5py", "jinja2", "keras"),
    *("matplotlib", "openpyxl", "pandas", "pyarrow", "requests", "scipy", "tensorflow", "urllib3"),
)
EXTRA_OF = {
    **dict.fromkeys(_TRAIN, "train"),
    **dict.fromkeys(("gdcm", "highdicom"), "dicom"),
    **dict.fromkeys(("ai_edge_litert", "onnx", "openvino", "tf2onnx"), "export"),
    **dict.fromkeys(("fastapi", "multipart", "prometheus_client", "python_multipart"), "serve"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    "jax": "jax",
    "tensorboard": "tensorboard",
}
"""The extra that brings a package, by the name of its module. A plain install has none of them."""

_FIRST_WITHOUT_WHEELS = (3, 14)
_WITHOUT_WHEELS = {"tensorflow": "TensorFlow", "highdicom": "highdicom"}


def install_command(package: str) -> str:
    """Return the command that installs a package of `EXTRA_OF`."""
    command = f'pip install "boneage[{EXTRA_OF[package]}]"'
    if image := os.environ.get("BONEAGE_IMAGE"):
        command += f", outside of the image {image}, which can't be changed"
    return command


def describe_missing(error: ModuleNotFoundError) -> str | None:
    """Return what is not installed and how to install it; None for a module of no extra."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        return None
    if package in _WITHOUT_WHEELS and sys.version_info >= _FIRST_WITHOUT_WHEELS:
        name = _WITHOUT_WHEELS[package]
        return f"{name} has no wheel for this Python. Use Python 3.11, 3.12 or 3.13."
    return f"{package} is not installed. To install it: {install_command(package)}"


def has_package(package: str) -> bool:
    """Return whether a package of `EXTRA_OF` is installed. It is not imported."""
    return find_spec(package) is not None
