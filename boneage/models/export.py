"""Write a trained network in the formats of other programs, and read these files again.

An exported network takes a framed `image`, uint8 (b, size, size, 1), and `gender`, float32 (b, 1).
It answers `age_months` (b, 1); with a distribution head `age_distribution` (b, 241); and `pooled`,
the pooled features (b, k). All answers are float32, and the batch dimension is free.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.runtime.extras import install_command
from boneage.runtime.onnx import import_onnxruntime
from boneage.runtime.provenance import usable_cores

if TYPE_CHECKING:
    import keras

Storage: TypeAlias = Literal["float16", "float32"]
"""Type of the stored weights."""

OUTPUTS = ("age_months", "age_distribution", "pooled")

Answers: TypeAlias = dict[str, npt.NDArray[np.float32]]
Network: TypeAlias = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float32]], Answers]
"""Images uint8 (b, size, size, 1) and gender float32 (b, 1) to the answers, by their names."""

_MAX_ERROR = 1e-3  # of a tensor, relative to its norm; rounding to float16 alone makes < 5e-4
_SAME = 1e-5  # relative error of a kernel that is the product of another and a scale
_LAYOUTS = ((3, 2, 0, 1), (2, 3, 0, 1))  # of Keras' kernels in ONNX, the second if depthwise
_DESCRIPTION = (
    "Bone age in months of a hand radiograph, framed as recipe.json says (uint8), and of gender "
    "(1 = male, 0 = female). Research use only: no medical device."
)


@dataclass(frozen=True)
class Format:
    """A format of exported networks.

    Attributes:
        file: The name of the model's file or folder.
        packages: The modules that writing and checking need, apart from Keras.
        storages: Types that the weights can be stored as, the default first.
        write: Writes a network of `with_pixels` to a path, with its weights stored as named.
        load: Reads a written network again, to compute in float32.
    """

    file: str
    packages: tuple[str, ...]
    storages: tuple[Storage, ...]
    write: Callable[[keras.Model, Path, Storage], None]
    load: Callable[[Path], Network]


def check_packages(name: FormatName) -> None:
    """Check that the packages of a format are installed.

    Raises:
        InputError: A package is missing.
    """
    missing = [each for each in FORMATS[name].packages if importlib.util.find_spec(each) is None]
    if missing:
        what = f"packages are not installed: {', '.join(missing)}"
        fix = f"Install them: {install_command('onnx')}."
        raise InputError(Fault(f"the format {name}", what, fix))


def as_float16(values: npt.NDArray[Any]) -> npt.NDArray[np.float16] | None:
    """Return float32 weights as float16, or None where they have to stay as they are.

    Vectors stay float32: they are few, and a small variance of BatchNormalization may underflow.
    So do tensors that overflow, or that lose more than rounding because their values are tiny.
    """
    if values.dtype != np.float32 or values.ndim < 2:
        return None
    with np.errstate(over="ignore"):
        small = values.astype(np.float16)
    if not np.isfinite(small).all():
        return None
    lost = np.linalg.norm(values - small.astype(np.float32))
    return small if lost <= _MAX_ERROR * np.linalg.norm(values) else None


def with_named_answers(model: keras.Model) -> keras.Model:
    """Return the network of `build_model` with all of `OUTPUTS` that it has, by their names."""
    import keras

    layers = {layer.name: layer for layer in model.layers}
    answers = {name: layers[name].output for name in OUTPUTS if name in layers}
    return keras.Model(model.inputs, answers)


def with_pixels(network: keras.Model) -> keras.Model:
    """Return a network of `with_named_answers` that takes uint8 pixels, ready to be exported.

    Raises:
        InputError: The backend of Keras is not TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        what = f"the backend of Keras is {keras.backend.backend()}, which can't export a network"
        fix = "Set KERAS_BACKEND to tensorflow, where it is installed."
        raise InputError(Fault("KERAS_BACKEND", what, fix))
    shape = network.inputs[0].shape[1:]
    image = keras.Input(shape, dtype="uint8", name="image")
    gender = keras.Input((1,), name="gender")
    scaled = keras.layers.Rescaling(1 / 255, dtype="float32", name="pixels")(image)
    # XNNPACK, with which LiteRT computes, misreads `gender` from its second call on (ai-edge-litert
    # 2.3.0) where a dense layer takes it at once. Its values, 0 and 1, stay the same.
    sex = keras.layers.ReLU(name="sex")(gender)
    exported = keras.Model([image, gender], network([scaled, sex]))
    # Keras exports only what has been called.
    exported.predict_on_batch([np.zeros((1, *shape), np.uint8), np.zeros((1, 1), np.float32)])
    return exported


def _write_onnx(network: keras.Model, path: Path, storage: Storage) -> None:
    import onnx

    with _quiet():
        network.export(path, format="onnx", verbose=False)
    proto = onnx.load(path)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del proto.graph.value_info[:]  # they name the batch dimension otherwise
    if storage == "float16":
        _store_float16(proto.graph, network.get_weights())
    proto.doc_string = _DESCRIPTION
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _store_float16(graph: Any, weights: Sequence[npt.NDArray[Any]]) -> None:
    """Store the large weights as float16, and cast them to float32 before they are used.

    The converter multiplies the kernels by the scales of BatchNormalization. The kernels and the
    scales are stored apart: those of a released model are float16 already, and are kept exactly.
    """
    from onnx import TensorProto, helper, numpy_helper

    kernels = [each.transpose(axes) for each in weights if each.ndim == 4 for axes in _LAYOUTS]
    tensors, nodes = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        kernel, scale = _without_scale(values, kernels)
        small = as_float16(kernel)
        if small is None:
            tensors.append(tensor)
            continue
        names = [f"{tensor.name}_{part}" for part in ("float16", "cast", "scale")]
        tensors.append(numpy_helper.from_array(small, names[0]))
        cast = tensor.name if scale is None else names[1]
        nodes.append(helper.make_node("Cast", names[:1], [cast], to=TensorProto.FLOAT))
        if scale is not None:
            tensors.append(numpy_helper.from_array(scale, names[2]))
            nodes.append(helper.make_node("Mul", names[1:], [tensor.name]))
    nodes.extend(graph.node)  # a weight is made before its first use
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)


def _without_scale(
    values: npt.NDArray[Any], kernels: Sequence[npt.NDArray[Any]]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    """Return the kernel that a weight was made from, and its scale for each output channel."""
    for kernel in kernels:
        if kernel.shape != values.shape:
            continue
        axes = tuple(range(1, kernel.ndim))
        size = np.square(kernel, dtype=np.float64).sum(axes, keepdims=True)
        product = np.multiply(kernel, values, dtype=np.float64).sum(axes, keepdims=True)
        scale = (product / np.maximum(size, np.finfo(np.float64).tiny)).astype(np.float32)
        if np.linalg.norm(values - scale * kernel) <= _SAME * np.linalg.norm(values):
            return kernel, scale
    return values, None


def _load_onnx(path: Path) -> Network:
    onnxruntime = import_onnxruntime()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(images: npt.NDArray[np.uint8], gender: npt.NDArray[np.float32]) -> Answers:
        return dict(
            zip(names, session.run(names, {"image": images, "gender": gender}), strict=True)
        )

    return answer


def _write_openvino(network: keras.Model, path: Path, storage: Storage) -> None:
    import openvino

    source = path.with_suffix(".onnx")
    _write_onnx(network, source, "float32")  # it keeps the names and the free batch dimension
    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=storage == "float16")
    source.unlink()


def _load_openvino(path: Path) -> Network:
    import openvino

    # By default, bfloat16 is used where the processor has it, which costs up to half a month.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def answer(images: npt.NDArray[np.uint8], gender: npt.NDArray[np.float32]) -> Answers:
        found = compiled({"image": images, "gender": gender})
        return {output.any_name: np.array(found[output]) for output in compiled.outputs}

    return answer


def _write_litert(network: keras.Model, path: Path, storage: Storage) -> None:
    with _quiet():
        network.export(path, format="litert", verbose=False)


def _load_litert(path: Path) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    runners: dict[int, Any] = {}  # one for each size of a batch, as others would have

    def answer(images: npt.NDArray[np.uint8], gender: npt.NDArray[np.float32]) -> Answers:
        if len(images) not in runners:
            interpreter = Interpreter(model_path=str(path), num_threads=usable_cores())
            runners[len(images)] = interpreter.get_signature_runner()
        return dict(runners[len(images)](image=images, gender=gender))

    return answer


def _write_saved_model(network: keras.Model, path: Path, storage: Storage) -> None:
    with _quiet():
        network.export(path, format="tf_saved_model", verbose=False)


def _load_saved_model(path: Path) -> Network:
    import keras

    layer = keras.layers.TFSMLayer(path, call_endpoint="serve")
    return lambda images, gender: {
        name: np.array(values) for name, values in layer([images, gender]).items()
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of converters, which no user can do anything about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


FormatName = Literal["onnx", "litert", "openvino", "saved-model"]
FORMATS: dict[FormatName, Format] = {
    "onnx": Format(
        "model.onnx",
        ("onnx", "tf2onnx", "onnxruntime"),
        ("float16", "float32"),
        _write_onnx,
        _load_onnx,
    ),
    "litert": Format(
        "model.tflite", ("ai_edge_litert",), ("float32",), _write_litert, _load_litert
    ),
    "openvino": Format(
        "model.xml", ("onnx", "tf2onnx", "openvino"), ("float32",), _write_openvino, _load_openvino
    ),
    "saved-model": Format("saved_model", (), ("float32",), _write_saved_model, _load_saved_model),
}
