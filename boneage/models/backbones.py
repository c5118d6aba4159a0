"""The backbones: networks that turn an image into features, and the pixel range each expects.

Other packages offer backbones by entry points of the group `boneage.backbones`. Keras is imported
when a network is built, so that a wrong name is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from boneage.errors import Fault, InputError
from boneage.run import Run
from boneage.runtime.plug_ins import Kind, PlugIn, find_plug_in, find_plug_ins

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
        branch_end: End of the names of the layers that end a residual branch, if `drop_path` may
            drop those branches.
    """

    build: Callable[[int], keras.Model]
    range: str = "symmetric"
    smallest: int = 32
    branch_end: str = ""

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

    def adapted(self, network: keras.Model, drop_path: float) -> keras.Model:
        """Return the network that is trained, with the weights of one that `build` made.

        Residual branches are dropped (stochastic depth, Huang et al., ECCV 2016): each image of a
        training batch skips a branch with a probability that grows from 0 at the first branch to
        `drop_path` at the last. Grouped convolutions become depthwise ones, which TensorFlow
        computes faster. All layers are Keras' own, so a saved file loads without this package.
        """
        if not self.branch_end:
            return network
        import keras
        import numpy as np
        from keras import layers

        ends = [each.name for each in network.layers if each.name.endswith(self.branch_end)]
        rates = dict(zip(ends, np.linspace(0, drop_path, len(ends)).tolist(), strict=True))

        def copied(layer: keras.Layer) -> keras.Layer:
            name = layer.name
            if name in rates:
                return layers.Dropout(rates[name], noise_shape=(None, 1, 1, 1), name=name)
            if getattr(layer, "groups", 1) > 1:
                return layers.DepthwiseConv2D(layer.kernel_size, padding=layer.padding, name=name)
            return type(layer).from_config(layer.get_config())

        copy = keras.models.clone_model(network, clone_function=copied)
        for new, old in zip(copy.weights, network.weights, strict=True):
            new.assign(keras.ops.reshape(old, new.shape))
        return copy


def _from_applications(name: str, **settings: Any) -> Callable[[int], keras.Model]:
    """Return a function that builds a network of keras.applications with random weights."""

    def build(image_size: int) -> keras.Model:
        import keras

        shape = (image_size, image_size, 3)
        network = getattr(keras.applications, name)
        return network(include_top=False, weights=None, input_shape=shape, **settings)

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
    # Liu et al., A ConvNet for the 2020s (CVPR 2022).
    "convnext_tiny": Backbone(
        _from_applications("ConvNeXtTiny", include_preprocessing=False),
        range="imagenet",
        branch_end="_identity",
    ),
    # Tan and Le, EfficientNetV2: Smaller Models and Faster Training (ICML 2021).
    "efficientnet_v2_s": Backbone(
        _from_applications("EfficientNetV2S", include_preprocessing=False), branch_end="_drop"
    ),
    "mini_xception": Backbone(_from_own("mini_xception")),
    "mini_resnet": Backbone(_from_own("mini_resnet")),
    "small_resnet": Backbone(_from_own("small_resnet")),
}
"""The backbones of this package, by their names in a recipe."""

PLUG_INS = Kind(
    "boneage.backbones",
    "model.backbone",
    "A backbone is one function (image_size: int) -> keras.Model, from one image of 1 or 3 "
    "channels to features (height, width, channels).",
)


def find_backbone(name: str, image_size: int, drop_path: float = 0.0) -> Backbone:
    """Return the backbone of a name, after a check that it takes images of this size.

    Raises:
        InputError: The name is unknown, the images are too small, the backbone has no branches to
            drop, or a package offers no backbone under this name.
    """
    backbone = BACKBONES.get(name)
    if backbone is None:
        plug_in = find_plug_in(PLUG_INS, name)
        if plug_in is None:
            known = ", ".join(dict.fromkeys([*BACKBONES, *find_plug_ins(PLUG_INS)]))
            fix = f"Choose one of {known} in the recipe's [model], or install the package that "
            raise InputError(Fault("model.backbone", f"{name!r} is not known", fix + "offers it."))
        backbone = _load(plug_in)
    if image_size < backbone.smallest:
        what = f"it is {image_size} pixels, and {name} needs at least {backbone.smallest}"
        fix = "Set framing.size higher, or choose a smaller backbone."
        raise InputError(Fault("image size", what, fix))
    if drop_path and not backbone.branch_end:
        known = ", ".join(key for key, value in BACKBONES.items() if value.branch_end)
        what = f"it is {drop_path:g}, and {name} has no branches that can be dropped"
        raise InputError(Fault("model.drop_path", what, f"Set it to 0, or use one of {known}."))
    return backbone


def backbone_source(name: str) -> dict[str, str]:
    """Return the package and version that a backbone comes from; nothing for those of boneage."""
    plug_in = None if name in BACKBONES else find_plug_in(PLUG_INS, name)
    return {} if plug_in is None else {"package": plug_in.package, "version": plug_in.version}


def require_backbone(run: Run) -> None:
    """Import the package that the backbone of a run comes from: its layers are defined there.

    Raises:
        InputError: The package is not installed, or is broken.
    """
    name = run.read_recipe().model.backbone
    if name in BACKBONES:
        return
    plug_in = find_plug_in(PLUG_INS, name)
    if plug_in is not None:
        plug_in.load()
        return
    source = (run.read_info().get("model") or {}).get("backbone") or {}
    package, version = source.get("package"), source.get("version")
    what, fix = f"its backbone {name!r} is not known", "Install the package that offers it."
    if package:
        what = f"its backbone {name!r} comes from {package} {version}, which is not installed"
        fix = f"Install it: pip install {package}=={version}."
    raise InputError(Fault(str(run.folder), what, fix))


def backbone_notes(name: str) -> list[str]:
    """Return notes on a name of this package that other packages offer, too."""
    if name not in BACKBONES:
        return []
    return [
        f"note: {plug_in} offers a backbone {name}, too. The backbone of boneage is used."
        for plug_in in find_plug_ins(PLUG_INS).get(name, [])
    ]


def _load(plug_in: PlugIn) -> Backbone:
    """Return the backbone of another package. Its networks are checked when they are built."""
    loaded = plug_in.load()
    if not isinstance(loaded, Backbone):
        if not callable(loaded):
            raise plug_in.error(f"{plug_in.value} is not a function")
        loaded = Backbone(loaded)
    smallest: Any = loaded.smallest
    if loaded.range not in ("symmetric", "imagenet"):
        raise plug_in.error(f"its range {loaded.range!r} is neither 'symmetric' nor 'imagenet'")
    if not isinstance(smallest, Integral):
        raise plug_in.error(f"its smallest side is {smallest!r}, not a number of pixels")
    build = loaded.build

    def checked(image_size: int) -> keras.Model:
        import keras

        try:
            network = build(image_size)
        except InputError:
            raise
        except (Exception, SystemExit) as error:  # another package's code raises anything
            raise plug_in.error(f"it failed ({type(error).__name__}: {error})") from error
        problem = _problem(network, image_size, loaded.range) or _why_not_saved(network)
        if problem:
            raise plug_in.error(problem)
        ends = (getattr(network, name, None) for name in ("input", "output"))
        if any(isinstance(end, (list, tuple, dict)) for end in ends):  # of one array
            return keras.Model(network.inputs[0], network.outputs[0])
        return network

    return replace(loaded, build=checked)


def _problem(network: Any, image_size: int, scale: str) -> str:
    """Return why a network can't be a backbone, or an empty text."""
    import keras

    if not isinstance(network, keras.Model):
        return f"it returned {type(network).__name__} instead of a keras.Model"
    shapes = [
        [tuple(each.shape) for each in getattr(network, name, None) or []]
        for name in ("inputs", "outputs")
    ]
    channels = (3,) if scale == "imagenet" else (1, 3)
    sides = (image_size, None)
    if not (
        len(shapes[0]) == len(shapes[1]) == 1
        and len(shapes[0][0]) == len(shapes[1][0]) == 4
        and shapes[0][0][1] in sides
        and shapes[0][0][2] in sides
        and shapes[0][0][3] in channels
        and shapes[1][0][3]
    ):
        return f"at {image_size} pixels, its network has inputs {shapes[0]} and outputs {shapes[1]}"
    return ""


def _why_not_saved(network: keras.Model) -> str:
    """Return why a `.keras` file with this network could not be read again, or an empty text."""
    try:
        type(network).from_config(network.get_config())
    except Exception as error:  # noqa: BLE001 - another package's layers raise anything
        text = str(error).strip()
        reason = text.rpartition("Exception encountered: ")[2].partition(". ")[0]
        return (
            f"its network can't be saved and read again ({reason:.200}); layers of its own need "
            "@keras.saving.register_keras_serializable(), and lambdas are refused"
        )
    return ""
