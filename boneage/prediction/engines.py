"""Engines: the libraries that compute a network's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.run import Run
from boneage.runtime.extras import describe_missing
from boneage.runtime.nvidia import check_kernels
from boneage.runtime.onnx import import_onnxruntime
from boneage.runtime.provenance import usable_cores

if TYPE_CHECKING:
    import keras

ANSWER, DISTRIBUTION, FEATURES = "age_months", "age_distribution", "pooled"
"""Outputs of a network, and names of the layers that give them."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network computes for a batch of images.

    Attributes:
        months: float64 (b,), bone ages.
        variance: float64 (b,), months squared: the variance of the distribution over ages. None
            for a network that answers one number.
        pooled: float32 (b, features), the pooled features of the backbone; None if they are not
            known.
    """

    months: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64] | None = None
    pooled: npt.NDArray[np.float32] | None = None


class Engine(Protocol):
    """A trained network, ready to predict."""

    def predict(self, images: npt.NDArray[np.uint8], gender: npt.NDArray[np.float32]) -> Outputs:
        """Compute a batch.

        Args:
            images: uint8 (b, size, size), framed as in training.
            gender: float32 (b, 1), 1.0 = male.
        """
        ...


class OnnxEngine:
    """A network in an ONNX file, computed by ONNX Runtime. It needs no Keras."""

    def __init__(self, path: Path) -> None:
        """Read the network.

        Args:
            path: A file as `boneage export` writes it: inputs `image` uint8 (b, size, size, 1) and
                `gender` float32 (b, 1); outputs `age_months` (b, 1), and perhaps
                `age_distribution` (b, 241) and `pooled` (b, features).

        Raises:
            InputError: The file can't be read, or holds another network.
        """
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        # Threads that wait without a rest take twice the time where others use the processor too.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # its errors are raised
        fix = "Export the model again, or use a copy from its authors."
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - a damaged file makes ONNX Runtime raise anything
            what = f"the model can't be read: {str(error).splitlines()[0]:.200}"
            raise InputError(Fault(str(path), what, fix)) from None
        inputs = {each.name for each in self._session.get_inputs()}
        found = {each.name for each in self._session.get_outputs()}
        self._outputs = [name for name in (ANSWER, DISTRIBUTION, FEATURES) if name in found]
        if inputs != {"image", "gender"} or ANSWER not in found:
            what = f"its network takes {sorted(inputs)} and answers {sorted(found)}"
            raise InputError(Fault(str(path), what, fix, f"image and gender, and {ANSWER}"))

    def predict(self, images: npt.NDArray[np.uint8], gender: npt.NDArray[np.float32]) -> Outputs:
        """Compute a batch; see `Engine.predict`."""
        given = {"image": images[..., np.newaxis], "gender": gender}
        found = self._session.run(self._outputs, given)
        return _outputs(dict(zip(self._outputs, found, strict=True)))


class KerasEngine:
    """A Keras model, computed by the Keras backend."""

    def __init__(self, model: keras.Model) -> None:
        """Hold a model with the inputs `image` and `gender` and the output `age_months`."""
        import keras

        layers = {layer.name: layer.output for layer in model.layers}
        inner = {name: layers[name] for name in (DISTRIBUTION, FEATURES) if name in layers}
        self._model = keras.Model(model.inputs, {ANSWER: model.outputs[0], **inner})

    def predict(self, images: npt.NDArray[np.uint8], gender: npt.NDArray[np.float32]) -> Outputs:
        """Compute a batch; see `Engine.predict`."""
        scaled = images[..., np.newaxis].astype(np.float32) / np.float32(255)
        return _outputs(self._model.predict_on_batch((scaled, gender)))


def _outputs(found: Mapping[str, Any]) -> Outputs:
    months = np.asarray(found[ANSWER], np.float64)[:, 0]
    variance = pooled = None
    if DISTRIBUTION in found:
        shares = np.asarray(found[DISTRIBUTION], np.float64)
        ages = np.arange(shares.shape[1])
        variance = (shares * (ages - (shares @ ages)[:, np.newaxis]) ** 2).sum(1)
    if FEATURES in found:
        pooled = np.asarray(found[FEATURES], np.float32)
    return Outputs(months, variance, pooled)


def load_engine(run: Run) -> Engine:
    """Return the engine that computes a run's best model.

    It is that of the ONNX file, where the run has one. Keras is imported only here.

    Raises:
        InputError: The model file can't be read, or Keras has no kernels for the GPU.
    """
    if run.onnx_path.exists():
        return OnnxEngine(run.onnx_path)
    check_kernels()
    try:
        from boneage.models.saved import load_model
    except ModuleNotFoundError as error:
        if (missing := describe_missing(error)) is None:
            raise
        what = f"it has no {run.onnx_path.name}, so Keras computes it"
        raise InputError(Fault(run.folder.name, what, missing.rstrip(".") + ".")) from None
    return KerasEngine(load_model(run))
