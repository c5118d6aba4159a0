"""Recognise a training that ran out of memory, and name a batch size that may fit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from boneage.errors import Fault, InputError

_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|OOM when allocating|failed to allocate"
    r"|CUDA_ERROR_OUT_OF_MEMORY|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
# TensorFlow and JAX use the same code for a full disk and for too many open files.
_OTHER_RESOURCE = re.compile(
    r"no space left|disk quota|quota exceeded|too many open", re.IGNORECASE
)
# Exceptions of TensorFlow, JAX, PyTorch and cuDNN that may mean it. Their text decides.
_BACKEND_ERRORS = {
    *("ResourceExhaustedError", "InternalError", "JaxRuntimeError", "XlaRuntimeError"),
    *("OutOfMemoryError", "UnknownError"),
}


class BatchTooLargeError(InputError):
    """A batch needs more memory than there is."""


@contextlib.contextmanager
def explain_out_of_memory(batch_size: int, devices: int = 1) -> Iterator[None]:
    """Turn a backend's out-of-memory error into a message that names half the batch size.

    Args:
        batch_size: Number of images per batch.
        devices: Number of devices that share a batch.

    Raises:
        BatchTooLargeError: There was too little memory.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        return
    # Raised out here, because the first error holds the arrays of the failed step.
    half = max(devices, batch_size // 2 // devices * devices)
    raise BatchTooLargeError(
        Fault(
            "training.batch_size",
            f"a batch of {batch_size} images does not fit into memory",
            f"Pass --set training.batch_size={half}."
            if half < batch_size
            else "Lower framing.size, or choose a smaller model.backbone.",
        )
    )


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that caused it, means that no memory was left."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        names = {kind.__name__ for kind in type(each).__mro__}
        text = str(each)
        says_so = "ResourceExhaustedError" in names or _OUT_OF_MEMORY.search(text)
        if "MemoryError" in names:
            return True
        if names & _BACKEND_ERRORS and says_so and not _OTHER_RESOURCE.search(text):
            return True
        waiting += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
    return False
