"""Pretrained weights of a backbone: a local file, checked by its digest, never downloaded."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boneage.errors import Fault, InputError
from boneage.runtime.backend import keras_home

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class WeightsFile:
    """A file of keras.applications' ImageNet weights, without the classifier.

    Attributes:
        name: File name in `$KERAS_HOME/models`, where Keras stores it.
        algorithm: Algorithm of the digest: `sha256`, or `md5` where keras.applications lists only
            that. md5 detects a damaged or wrong file, but not a forged one;
            `model.weights_sha256` in the recipe does.
        digest: Digest of the file, hexadecimal.
        size: Size of the file in bytes, if known.
    """

    name: str
    algorithm: str
    digest: str
    size: int | None = None

    def __str__(self) -> str:
        size = f", {self.size:,} bytes" if self.size else ""
        return f"{self.name} of keras.applications, {self.algorithm} {self.digest}{size}"


IMAGENET = {
    "xception": WeightsFile(
        "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "sha256",
        "e3fa32521ed48ced4af05adc950ab24963c4a00bd42e6825f8b180c65853163c",
        83_683_744,
    ),
    "inception_v3": WeightsFile(
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5",
        "bcbd6486424b2319ff4ef7d526e38f63",
    ),
    "densenet169": WeightsFile(
        "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5",
        "b8c4d4c20dd625c148057b9ff1c1176b",
    ),
    "convnext_tiny": WeightsFile(
        "convnext_tiny_notop.h5",
        "sha256",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "efficientnet_v2_s": WeightsFile(
        "efficientnetv2-s_notop.h5",
        "md5",
        "af0682fb74e8c54910f2d4393339c070",
    ),
}
"""The ImageNet weights of the backbones that have some."""


def find_weights(backbone: str, weights: str, sha256: str | None) -> Path | None:
    """Return the file of a backbone's weights, after a check of its digest.

    Args:
        backbone: Name of the backbone.
        weights: `none`, `imagenet` or the path of a file.
        sha256: SHA-256 of the file. Without it, the file must be that of the ImageNet weights.

    Returns:
        The file, or None for random weights.

    Raises:
        InputError: The backbone has no ImageNet weights, or the file is missing or has another
            digest.
    """
    if weights == "none":
        return None
    imagenet = IMAGENET.get(backbone)
    if weights == "imagenet":
        if imagenet is None:
            raise InputError(
                Fault(
                    "model.weights",
                    f"{backbone!r} has no ImageNet weights",
                    "Set model.weights to 'none' or to the path of a weights file, or choose one "
                    f"of {', '.join(IMAGENET)}.",
                )
            )
        path = imagenet_path(backbone)
    else:
        path = Path(weights)
    if not path.is_file():
        raise InputError(_missing(path, weights, imagenet))
    _check_digest(path, imagenet, sha256)
    return path


def imagenet_path(backbone: str) -> Path:
    """Return where the ImageNet weights of a backbone lie, if they were copied there."""
    return keras_home() / "models" / IMAGENET[backbone].name


def load_weights(network: keras.Model, path: Path) -> None:
    """Load the weights of a checked file into a backbone.

    Raises:
        InputError: The file holds the weights of another network.
    """
    try:
        with warnings.catch_warnings():
            # Keras only warns of layers that the file has no weights for, and leaves them random.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(str(path))
    except Exception as error:  # noqa: BLE001 - a damaged file makes Keras raise anything
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            Fault(
                str(path),
                f"the weights in this file don't fit {network.name}: {line:.200}",
                "Set model.weights to a .h5 or .weights.h5 file of this backbone without a head, "
                "or to 'none'.",
            )
        ) from None


def _check_digest(path: Path, imagenet: WeightsFile | None, sha256: str | None) -> None:
    # Keras itself would delete a file with a wrong digest if it can't download another.
    if sha256 is not None:
        algorithm, digest, expected = "sha256", sha256, sha256
    elif imagenet is not None:
        algorithm, digest, expected = imagenet.algorithm, imagenet.digest, str(imagenet)
    else:
        raise InputError(
            Fault(
                f"model.weights {str(path)!r}",
                "model.weights_sha256 is missing, and this backbone has no published weights",
                "Set model.weights_sha256 to what `sha256sum FILE` prints.",
            )
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != digest:
        raise InputError(
            Fault(
                str(path),
                f"the {algorithm} of this file is {found} ({path.stat().st_size:,} bytes)",
                "Download the file again. For your own weights, set model.weights_sha256 to the "
                "file's digest.",
                expected=expected,
            )
        )


def _missing(path: Path, weights: str, imagenet: WeightsFile | None) -> Fault:
    if weights != "imagenet":
        return Fault(
            f"model.weights {weights!r}",
            "this file does not exist",
            "Set model.weights to 'none', 'imagenet' or the path of a weights file. To train from "
            "scratch, pass --set model.weights=none.",
        )
    return Fault(
        str(path),
        "the file of the ImageNet weights does not exist",
        f"Copy {imagenet} to {path}. To train from scratch, pass --set model.weights=none.",
    )
