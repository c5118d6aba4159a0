"""The backbones: networks that turn an image into features, and the pixel range each expects.

Keras is imported when a network is built, so that a wrong name is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from boneage.errors import Fault, InputError

if TYPE_CHECKING:
    import keras

# Mean and standard deviation of ImageNet's red, green and blue for pixels in [0, 1]. In
# keras.applications, this is the preprocessing mode "torch".
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """A network without a head.

    Attributes:
        build: Builds the network with random weights for a square input of this side in pixels.
        range: Range of the input. `symmetric`: grey levels in [-1, 1]. `imagenet`: three equal
            channels, each minus ImageNet's mean and divided by its standard deviation.
        smallest: Smallest side of the input in pixels.
    """

    build: Callable[[int], keras.Model]
    range: str = "symmetric"
    smallest: int = 32

    def scaled(self, image: Any, channels: int) -> Any:
        """Return an image (b, s, s, 1) in [0, 1] in the backbone's range and channels."""
        from keras import layers

        if self.range == "imagenet":
            image = layers.Concatenate()([image] * channels)  # (b, s, s, 3)
            scale = [1.0 / deviation for deviation in IMAGENET_DEVIATION]
            pairs = zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
            offset = [-mean / deviation for mean, deviation in pairs]
            return layers.Rescaling(scale, offset=offset)(image)
        image = layers.Rescaling(2.0, offset=-1.0)(image)  # [0, 1] to [-1, 1]
        if channels == 1:
            return image
        return layers.Concatenate()([image] * channels)  # the radiograph is grey, ImageNet is not


def _from_applications(name: str) -> Callable[[int], keras.Model]:
    """Return a function that builds a network of keras.applications with random weights."""

    def build(image_size: int) -> keras.Model:
        import keras

        shape = (image_size, image_size, 3)
        network = getattr(keras.applications, name)
        return network(include_top=False, weights=None, input_shape=shape)

    return build


def _from_own(name: str) -> Callable[[int], keras.Model]:
    """Return a function that builds a network of `small_networks` with random weights."""

    def build(image_size: int) -> keras.Model:
        from boneage.models import small_networks

        network: keras.Model = getattr(small_networks, name)(image_size)
        return network

    return build


BACKBONES: dict[str, Backbone] = {
    # Chollet, Xception: Deep Learning with Depthwise Separable Convolutions (CVPR 2017).
    "xception": Backbone(_from_applications("Xception"), smallest=71),
    # Szegedy et al., Rethinking the Inception Architecture for Computer Vision (CVPR 2016).
    "inception_v3": Backbone(_from_applications("InceptionV3"), smallest=75),
    # Huang et al., Densely Connected Convolutional Networks (CVPR 2017).
    "densenet169": Backbone(_from_applications("DenseNet169"), range="imagenet"),
    "mini_xception": Backbone(_from_own("mini_xception")),
    "mini_resnet": Backbone(_from_own("mini_resnet")),
    "small_resnet": Backbone(_from_own("small_resnet")),
}
"""The backbones, by their names in a recipe."""


def find_backbone(name: str, image_size: int) -> Backbone:
    """Return the backbone of a name, after a check that it takes images of this size.

    Raises:
        InputError: The name is unknown, or the images are too small.
    """
    if name not in BACKBONES:
        raise InputError(
            Fault(
                "model.backbone",
                f"{name!r} is not known",
                f"Choose one of {', '.join(BACKBONES)} in the recipe's [model].",
            )
        )
    backbone = BACKBONES[name]
    if image_size < backbone.smallest:
        raise InputError(
            Fault(
                "image size",
                f"it is {image_size} pixels, and {name} needs at least {backbone.smallest}",
                "Set framing.size higher, or choose a smaller backbone.",
            )
        )
    return backbone
