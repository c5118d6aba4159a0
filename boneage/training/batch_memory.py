"""Which batch fits into memory: an estimate before a training, trial steps after it ran out.

On a processor the estimate is the guard: Linux promises more memory than there is and kills the
process that takes it. On an accelerator the allocator says that it has none left, and steps on
zeros then find the batch that it has enough for.
"""

from __future__ import annotations

import contextlib
import gc
import math
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from boneage.errors import Fault, InputError
from boneage.training.free_memory import address_space_bytes, host_bytes, largest_device_bytes

# Fitted to training steps of TensorFlow on a processor: experiments/capacity/measure.py.
RUNTIME_BYTES = 95_000_000  # what the first step leaves for good: threads, the graph
LAYER_BYTES = 1_800_000  # and each layer's part of that
PASSING = 3  # outputs of the largest layer that live at once in the backward pass, beside the kept
LOWEST, HIGHEST = 0.75, 1.25  # the measured need over the estimate, with a margin on both sides
# Elsewhere nothing was measured; compilers share buffers, and compute some anew to save memory.
LOWEST_ELSEWHERE = 0.4

_HALVES = {"float16", "bfloat16"}
_LACKS = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|OOM when allocating|failed to allocate"
    r"|CUDA_ERROR_OUT_OF_MEMORY|(CUDNN|CUBLAS)_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
# Both libraries use the same code for a full disk and for too many open files.
_NOT_MEMORY = re.compile(r"no space left|disk quota|quota exceeded|too many open", re.IGNORECASE)
_SPEAKS = {"ResourceExhaustedError", "InternalError", "JaxRuntimeError", "XlaRuntimeError"}
_SPEAKS |= {"OutOfMemoryError", "UnknownError"}  # torch's, and cuDNN's by way of TensorFlow

Step = Callable[[int], object]


class BatchTooLargeError(InputError):
    """A batch needs more memory than there is."""


@dataclass(frozen=True)
class Need:
    """What training steps of one model take, estimated.

    Attributes:
        fixed: Bytes whatever the batch: weights, gradients, what the optimizer keeps, the runtime.
        per_image: Bytes for each image of a batch.
        held: Bytes of `fixed` that the model and its optimizer hold already.
        devices: Among how many devices a batch is split; `fixed` is needed on each.
    """

    fixed: int
    per_image: int
    held: int
    devices: int = 1

    def bytes(self, batch_size: int) -> int:
        """What a step takes on one device."""
        return self.fixed + self.per_image * math.ceil(batch_size / self.devices)

    def batch(self, there: float) -> int:
        """The largest batch that takes no more than that; 0 if none does."""
        images = max(0, int((there - self.fixed) // self.per_image)) * self.devices
        step = math.lcm(8, self.devices)  # a round number, because an estimate is no exact one
        return images - images % (step if images >= 2 * step else self.devices)


def needed_bytes(model: keras.Model, batch_size: int) -> int:
    """Estimates the memory that one training step takes at most, on one device.

    Weights, gradients and what the optimizer keeps; what layers give out, which the backward pass
    asks for again; the batch itself; and what the library takes for itself. On a processor the
    truth is `LOWEST` to `HIGHEST` times that.

    Args:
        model: Compiled; what its optimizer keeps of each weight is counted.
        batch_size: Images of the whole batch, on all devices that share it.
    """
    return _need(model).bytes(batch_size)


def check_batch(model: keras.Model, batch_size: int) -> None:
    """Refuses a batch that clearly doesn't fit, before anything is written.

    Where it is not clear, or not known what memory there is, nothing is refused.

    Raises:
        BatchTooLargeError: Even at the least it may take, it takes more than there is.
    """
    there = available_bytes()
    if there is None:
        return
    need = _need(model)
    there += need.held
    lowest = LOWEST_ELSEWHERE if _compiled() else LOWEST
    if lowest * need.bytes(batch_size) <= there:
        return
    needed = _told(need.bytes(batch_size))
    what = f"a batch of {batch_size} needs about {needed}, and {_told(there)} are there"
    raise BatchTooLargeError(_fault(what, need.batch(there / HIGHEST)))


@contextlib.contextmanager
def within_memory(model: keras.Model, batch_size: int) -> Iterator[None]:
    """Turns what a training raises for want of memory into what a user is told; see `memory_fault`.

    Args:
        model: Compiled, that is trained inside. After an error its weights are worth nothing.
        batch_size: Images of the whole batch.

    Raises:
        BatchTooLargeError: There was too little memory.
    """
    try:
        yield
    except Exception as error:
        if not out_of_memory(error):
            raise
        fault = memory_fault(error, model, batch_size)
    else:
        return
    raise BatchTooLargeError(fault) from None  # what went before holds what it computed


def available_bytes() -> int | None:
    """The memory that this process may still take where it computes; None if nothing tells.

    On an accelerator what JAX has left of its share; for TensorFlow the largest device's whole
    memory, because what is free of it says nothing once TensorFlow has taken nearly all of it for
    itself. Else what `host_bytes` tells.
    """
    if not _accelerated():
        return host_bytes()
    if keras.backend.backend() == "jax":
        import jax

        told = jax.local_devices()[0].memory_stats() or {}
        if "bytes_limit" not in told:
            return None
        return int(told["bytes_limit"]) - int(told.get("bytes_in_use", 0))
    return largest_device_bytes() if keras.backend.backend() == "tensorflow" else None


def out_of_memory(error: BaseException | None) -> bool:
    """Tells whether an error says that there was no memory left, itself or in what caused it.

    Known are those of TensorFlow, JAX, PyTorch, numpy and Python. A full disk is none, though
    TensorFlow calls it by the same name.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if _lacks_memory(one):
            return True
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return False


def batch_that_fits(step: Step, batch_size: int, *, refine: bool = True) -> int | None:
    """Finds a batch below one that did not fit, by steps that are really made.

    Args:
        step: Makes one training step of so many images, from nothing; when there is too little
            memory it raises what `out_of_memory` knows.
        batch_size: What did not fit.
        refine: Whether to try once more in the middle, between what fits and its double.

    Returns:
        The largest batch that was tried and fits; None if not even one image does.

    Raises:
        Exception: As it came from `step`, when it was not for want of memory.
    """
    size = batch_size // 2
    while size and not _fits(step, size):
        size //= 2
    middle = size + size // 2
    if refine and size < middle < batch_size and _fits(step, middle):
        size = middle
    return size or None


def zeros_step(model: keras.Model) -> Step:
    """Makes training steps on black images, after which the model is good for nothing else.

    On JAX they are those of untrained copies: a step that broke off has taken the model's own
    weights with it, because JAX gives their memory away before it has the new ones.

    Args:
        model: Compiled.
    """

    def step(batch_size: int) -> None:
        gc.collect()  # of the attempt before: layers know of one another in circles
        trained = model
        if keras.backend.backend() == "jax":
            trained = type(model).from_config(model.get_config())
            optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
            trained.compile(optimizer=optimizer, loss=model.loss)  # that may be a function of ours

        def zeros(tensor: Any) -> Any:
            return np.zeros((batch_size, *tensor.shape[1:]), "float32")

        inputs, target = (keras.tree.map_structure(zeros, t) for t in (model.input, model.output))
        trained.train_on_batch(inputs, target)

    return step


def memory_fault(error: BaseException, model: keras.Model, batch_size: int) -> Fault:
    """What to tell a user when a training ran out of memory, with a batch that fits if it can.

    That batch was tried. Where it can't be (several devices train together, or `ulimit -v` is
    set: TensorFlow aborts when it runs out a second time), half is what the user is told to try.

    Args:
        error: One that `out_of_memory` knows. What its frames hold is let go, for the trials.
        model: Compiled, as it was trained. Its weights are worth nothing afterwards.
        batch_size: Images of the whole batch.
    """
    _let_go(error)
    what = f"a batch of {batch_size} does not fit into memory"
    devices = _need(model).devices
    if batch_size <= devices:
        return _fault(what, None)
    if devices > 1 or address_space_bytes() is not None:
        half = max(devices, batch_size // 2 // devices * devices)
        return _fault(what, half, "a smaller one, perhaps {}")
    fits = batch_that_fits(zeros_step(model), batch_size, refine=_accelerated())
    return _fault(what, fits, "at most {}, which was tried")


def _need(model: keras.Model) -> Need:
    layers = list(_layers(model))
    weights = sum(_bytes(v.shape, v.dtype) for v in model.variables)
    trained = sum(_bytes(v.shape, v.dtype) for v in model.trainable_variables)
    optimizer = model.optimizer
    held = sum(_bytes(v.shape, v.dtype) for v in optimizer.variables) if optimizer.built else 0
    slots = held if optimizer.built else _slots(optimizer) * trained
    largest = max(_given(layer, "float32") for layer in layers)
    distribution = keras.distribution.distribution()
    return Need(
        fixed=weights + trained + slots + RUNTIME_BYTES + LAYER_BYTES * len(layers),
        per_image=sum(map(_kept, layers)) + PASSING * largest,
        held=weights + held,
        devices=1 if distribution is None else int(distribution.device_mesh.devices.size),
    )


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer


def _kept(layer: keras.layers.Layer) -> int:
    """Bytes that one layer keeps for each image until the backward pass comes to it.

    What normalises or adds keeps what it was given, and that another layer gave out.
    """
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.Add):
        return 0
    kept = _given(layer)
    if isinstance(layer, keras.layers.SeparableConv2D):
        # What is between its two convolutions; in half precision TensorFlow's processor kernels
        # make the first of them in float32, from a copy.
        shape = (*layer.output.shape[1:-1], layer.input.shape[-1] * layer.depth_multiplier)
        halves = layer.compute_dtype in _HALVES
        kept += _bytes(shape, "float32") + (_bytes(layer.input.shape[1:], "float32") * halves)
    return kept


def _given(layer: keras.layers.Layer, dtype: str | None = None) -> int:
    tensors = keras.tree.flatten(layer.output)
    return sum(_bytes(tensor.shape[1:], dtype or tensor.dtype) for tensor in tensors)


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * (2 if dtype in _HALVES else 4)


def _slots(optimizer: keras.optimizers.Optimizer) -> int:
    """How many numbers an optimizer keeps of each weight, asked of a copy with one small weight."""
    copy = type(optimizer).from_config(optimizer.get_config())
    weight = keras.Variable(np.zeros((2, 3), "float32"), name="weight")
    copy.build([weight])
    return sum(tuple(variable.shape) == (2, 3) for variable in copy.variables)


def _accelerated() -> bool:
    devices = keras.distribution.list_devices()
    return any(name.startswith(("gpu", "cuda", "tpu")) for name in devices)


def _compiled() -> bool:
    """Whether steps run otherwise than where the estimate was fitted."""
    return _accelerated() or keras.backend.backend() != "tensorflow"


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if not names & _SPEAKS or _NOT_MEMORY.search(text):
        return False
    return "ResourceExhaustedError" in names or bool(_LACKS.search(text))


def _fits(step: Step, batch_size: int) -> bool:
    try:
        step(batch_size)
    except Exception as error:
        if not out_of_memory(error):
            raise
        _let_go(error)
        return False
    return True


def _let_go(error: BaseException) -> None:
    """Frees what the functions that an error came through still hold."""
    traceback.clear_frames(error.__traceback__)


def _told(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count < 1e10 else f"{count / 1e9:,.0f} GB"


def _fault(what: str, fits: int | None, expected: str = "at most {}") -> Fault:
    if fits:
        fix = f"Pass --set training.batch_size={fits}."
        return Fault("training.batch_size", what, fix, expected=expected.format(fits))
    fix = "Lower framing.size, or choose a smaller model.backbone."
    return Fault(
        "training.batch_size", what, fix, expected="a smaller network, or smaller pictures"
    )
