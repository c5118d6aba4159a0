"""ONNX Runtime without its telemetry, which its packages switch on by default."""

from __future__ import annotations

import os
from typing import Any


def import_onnxruntime() -> Any:
    """Return the module `onnxruntime`, which then sends and keeps nothing.

    Since version 1.29 it writes an identifier of the computer and a database below the user's cache
    folder. It sends the properties of each network to its maker. The environment variable must be
    set before the first session. Windows has a function instead.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
