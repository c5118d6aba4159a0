"""What makes a training quick on a CPU: memory that is kept, and TensorFlow's fast convolutions."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
# No TF_CPP_MIN_LOG_LEVEL silences it: it comes before the level is read.
_GREETING = (b"absl::InitializeLog()", b"oneDNN custom operations are on")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Has glibc keep what is freed for what is asked for next; nothing is done elsewhere.

    As it comes, glibc gives every large array back to the system at once, which then clears each
    page of the next one before it can be written to. A training frees and takes gigabytes a step
    (`experiments/throughput/cpu_settings.py` measures what that costs).

    Args:
        environment: Whoever has tuned malloc there is left to it.

    Returns:
        Whether that is so now.
    """
    if os.name != "posix" or any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in environment
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def import_keras() -> None:
    """Imports Keras, with oneDNN if it runs on TensorFlow, and without the greeting of that.

    TensorFlow leaves oneDNN out where there is no AVX-512, though others gain by it too (measured
    by the same script). TF_ENABLE_ONEDNN_OPTS=0, the user's, is left alone. Nothing is done when
    TensorFlow is there already.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    with _without_greeting():
        import keras  # noqa: F401


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Holds back standard error, of C++ too, and then lets through what is no greeting."""
    sys.stderr.flush()
    true = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(true, 2)
            os.close(true)
            said.seek(0)
            for line in said:
                if not any(mark in line for mark in _GREETING):
                    os.write(2, line)
