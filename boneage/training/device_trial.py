"""Compute one small convolution with Keras and print where, how fast and whether it is right.

`boneage doctor` starts this as a process of its own, because a backend may crash or hang:
`python -m boneage.training.device_trial`. The last line of its output is JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import keras

BATCH, SIDE, CHANNELS, FILTERS = 8, 128, 32, 64
_REPEATS = 3  # after the first, which compiles


def main() -> None:
    """Run the trial."""
    device, seconds = _convolve("float32")
    try:
        bfloat16 = _convolve("bfloat16")[1]
    except ArithmeticError:
        raise
    except Exception:  # noqa: BLE001 - whatever a backend raises where it has no bfloat16
        bfloat16 = None
    found = {"backend": keras.backend.backend(), "device": device, "seconds": seconds}
    found |= {"bfloat16_seconds": bfloat16, "cuda_libraries": _cuda_libraries()}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def _convolve(precision: str) -> tuple[str, float]:
    """Return the device of the result, and the seconds of the fastest repeat.

    Raises:
        ArithmeticError: The result is wrong.
    """
    images = keras.ops.ones((BATCH, SIDE, SIDE, CHANNELS), precision)
    kernel = keras.ops.ones((3, 3, CHANNELS, FILTERS), precision)
    seconds = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        result: Any = keras.ops.conv(images, kernel)
        _value(result[-1, -1, -1, -1])  # waits for the device
        seconds.append(time.perf_counter() - start)
    expected = 9.0 * CHANNELS  # a number that bfloat16 holds exactly
    if _value(keras.ops.min(result)) != expected or _value(keras.ops.max(result)) != expected:
        raise ArithmeticError(f"a convolution in {precision} gives wrong numbers")
    return str(getattr(result, "device", "")), min(seconds[1:])


def _value(scalar: Any) -> float:
    return float(keras.ops.convert_to_numpy(keras.ops.cast(scalar, "float32")))


def _cuda_libraries() -> list[str]:
    """Return the paths of the CUDA libraries that this process has loaded."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    name = re.compile(r"lib(cudart|cublas|cublasLt|cudnn|cufft|cusolver|cusparse|nccl)\.so")
    return sorted(path for path in paths if name.match(Path(path).name))


if __name__ == "__main__":
    main()
