"""A recipe's augmentation in one pass: one interpolation, one table of grey levels, one kernel.

Shift, scale, rotation, flips and distortion are one interpolation. A chain of albumentations' own
transforms interpolates twice, and blurs twice. Gamma, brightness and contrast are one table of 256
levels. The random numbers and their ranges are those of the chain `Affine` with `keep_ratio`,
`HorizontalFlip`, `VerticalFlip`, `OpticalDistortion`, `RandomGamma`, `RandomBrightnessContrast`
and `Sharpen`, with the limits of albumentations 2.

Before these, a radiograph of lower quality may be imitated: resampled, blurred, noisy and
compressed. A resampled image stays small until that one interpolation, which enlarges it again.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import albumentations
import cv2
import numpy as np
import numpy.typing as npt
from albucore import sz_lut
from albumentations.core.transforms_interface import BaseTransformInitSchema

from boneage.recipe import Augmentation

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# albumentations' defaults.
DISTORTION = (-0.05, 0.05)
GAMMA = (0.8, 1.2)
CONTRAST = (0.8, 1.2)
BRIGHTNESS = (-0.2, 0.2)
SHARPENING = (0.2, 0.5)
LIGHTNESS = (0.5, 1.0)
# Zhong et al. erase up to 0.4 of a photograph. In a hand, that would erase the joints.
ERASED_AREA = (0.02, 0.15)
MAX_ERASED_ASPECT = 3.0  # width / height or height / width
SHRINKING = (0.5, 1.0)  # of either side
BLUR = (0.0, 0.8)  # standard deviation in pixels of the framed image
NOISE = (0.0, 8.0)  # standard deviation in levels of the radiograph, of 255
NOISE_RANGE = 4.6  # from its percentile 2 to 99.5, in standard deviations
JPEG = (30.0, 95.0)  # quality
# The ways to shrink. Nearest and bilinear are three times as likely, since the others take five
# times as long. Only area averages all pixels.
SAMPLERS = (
    *(cv2.INTER_AREA, cv2.INTER_LANCZOS4),
    *(3 * (cv2.INTER_NEAREST_EXACT, cv2.INTER_LINEAR)),
)

# For every image, one number in [0, 1) is drawn for each of these names, used or not. So the
# numbers of one setting do not depend on the other settings.
DRAWS = (
    *("moved", "scale", "angle", "shift_x", "shift_y", "flipped_x", "flipped_y"),
    *("distorted", "distortion", "gamma_changed", "gamma", "exposed", "contrast", "brightness"),
    *("sharpened", "sharpening", "lightness"),
)
DRAWS_TO_ERASE = ("erased", "area", "aspect", "erased_x", "erased_y")  # only if erasing is on
DRAWS_TO_DEGRADE = (  # only if resampling, blur, noise or compression is on
    *("resampled", "shrinking", "sampler", "blurred", "blur", "noisy", "noise", "noise_start"),
    *("compressed", "quality"),
)


class RandomVariation(albumentations.ImageOnlyTransform):
    """Augments a uint8 grey image `(h, w)` and keeps its shape.

    Args:
        settings: Extents and probabilities.
        p: Probability that an image is augmented at all.

    Attributes:
        gain: Levels of the next image for one level of its radiograph. Noise is multiplied by it.
            The caller sets it before each image.
    """

    class InitSchema(BaseTransformInitSchema):
        """The schema with which albumentations checks the arguments."""

        settings: Augmentation

    def __init__(self, settings: Augmentation, p: float = 1.0) -> None:
        super().__init__(p=p)
        # albumentations passes the checked settings as a dictionary.
        self.settings = Augmentation.model_validate(settings)
        self.gain = 1.0
        self._degrades = degrades(self.settings)

    def get_params(self) -> dict[str, Any]:
        """Draw one number in [0, 1) for each name."""
        names = DRAWS + (DRAWS_TO_ERASE if self.settings.erase else ())
        names += DRAWS_TO_DEGRADE if self._degrades else ()
        return dict(zip(names, self.random_generator.random(len(names)).tolist(), strict=True))

    def apply(self, img: Image, **params: Any) -> Image:
        """Return the augmented image: uint8 `(h, w)`."""
        settings = self.settings
        worse = _degrade(img, settings, params, self.gain) if self._degrades else img
        exposed = _expose(_move(worse, img.shape, settings, params), settings, params)
        return _erase(_sharpen(exposed, settings, params), settings, params)


def _between(limits: tuple[float, float], draw: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * draw


def degrades(settings: Augmentation) -> bool:
    """Return whether radiographs of lower quality are imitated."""
    return max(settings.resample, settings.blur, settings.noise, settings.jpeg) > 0


def _degrade(image: Image, settings: Augmentation, draws: dict[str, float], gain: float) -> Image:
    """Return the image as of lower quality, and perhaps smaller."""
    height, width = image.shape
    shrinking = 1.0
    if draws["resampled"] < settings.resample:
        shrinking = _between(SHRINKING, draws["shrinking"])
        size = max(1, round(width * shrinking)), max(1, round(height * shrinking))
        image = _shrunk(image, size, SAMPLERS[int(draws["sampler"] * len(SAMPLERS))])
    if draws["blurred"] < settings.blur:
        sigma = max(1e-3, shrinking * _between(BLUR, draws["blur"]))
        kernel = cv2.getGaussianKernel(3 if sigma < 0.5 else 5, sigma)
        image = np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel), np.uint8)
    if draws["noisy"] < settings.noise:
        numbers = _normal_numbers(max(16, (height * width).bit_length() + 1))
        start = int(draws["noise_start"] * (len(numbers) - image.size))
        noise = numbers[start : start + image.size].reshape(image.shape)
        sigma = _between(NOISE, draws["noise"])
        # Noise also widens the range of levels that is stretched.
        strength = 255 * sigma / math.hypot(255 / gain, NOISE_RANGE * sigma)
        noisy = cv2.addWeighted(image, 1, noise, strength / 32, 0, dtype=cv2.CV_8U)
        image = np.asarray(noisy, np.uint8)
    if draws["compressed"] < settings.jpeg:
        # Squared: a high quality changes little and takes twice as long, so it is rarer.
        quality = round(_between(JPEG, draws["quality"] ** 2))
        _, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
        image = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), np.uint8)
    return image


def _shrunk(image: Image, size: tuple[int, int], sampler: int) -> Image:
    if sampler != cv2.INTER_LANCZOS4:
        return np.asarray(cv2.resize(image, size, interpolation=sampler), np.uint8)
    small = cv2.resize(image.astype(np.float32), size, interpolation=sampler)  # uint8 takes twice
    return np.asarray(cv2.convertScaleAbs(np.maximum(small, 0)), np.uint8)


@functools.lru_cache(maxsize=4)
def _normal_numbers(bits: int) -> npt.NDArray[np.int8]:
    """Return `2 ** bits` numbers of the standard normal distribution, times 32, always the same."""
    numbers = np.random.default_rng(0).standard_normal(2**bits, np.float32)
    return np.asarray(np.clip(np.rint(32 * numbers), -127, 127), np.int8)


def _move(
    image: Image, shape: tuple[int, ...], settings: Augmentation, draws: dict[str, float]
) -> Image:
    """Move, flip and distort the image, and enlarge it to the shape if it is smaller."""
    height, width = shape
    horizontal = draws["flipped_x"] < settings.horizontal_flip
    vertical = draws["flipped_y"] < settings.vertical_flip
    distorted = draws["distorted"] < settings.optical_distortion
    can_move = settings.shift > 0 or settings.scale != (1.0, 1.0) or settings.rotate_degrees > 0
    scale, angle, shift_x, shift_y = 1.0, 0.0, 0.0, 0.0
    if can_move and draws["moved"] < settings.affine:
        scale = _between(settings.scale, draws["scale"])
        angle = math.radians(settings.rotate_degrees) * (2 * draws["angle"] - 1)
        shift_x = settings.shift * width * (2 * draws["shift_x"] - 1)
        shift_y = settings.shift * height * (2 * draws["shift_y"] - 1)
    elif not distorted:
        if image.shape != shape:
            image = np.asarray(cv2.resize(image, (width, height)), np.uint8)
        if not horizontal and not vertical:
            return image
        return np.asarray(cv2.flip(image, 1 if not vertical else 0 if not horizontal else -1))
    # The matrix maps a pixel's position in the result to its position in the image, both relative
    # to the centre. It undoes the distortion, the flips, the shift, the rotation and the scale.
    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    flip_x, flip_y = -1 if horizontal else 1, -1 if vertical else 1
    matrix = ((cosine * flip_x, -sine * flip_y), (sine * flip_x, cosine * flip_y))
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    offset_x = centre_x - cosine * shift_x + sine * shift_y
    offset_y = centre_y - sine * shift_x - cosine * shift_y
    if image.shape != shape:  # positions in the smaller image
        (x, y), (top, bottom) = (image.shape[1] / width, image.shape[0] / height), matrix
        matrix = ((x * top[0], x * top[1]), (y * bottom[0], y * bottom[1]))
        offset_x, offset_y = x * offset_x + (x - 1) / 2, y * offset_y + (y - 1) / 2
    if distorted:
        bend = _between(DISTORTION, draws["distortion"])
        across, down = _source_positions(height, width, bend, matrix, (offset_x, offset_y))
        return np.asarray(cv2.remap(image, across, down, cv2.INTER_LINEAR))
    rows = [
        (*row, offset - row[0] * centre_x - row[1] * centre_y)
        for row, offset in zip(matrix, (offset_x, offset_y), strict=True)
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, np.array(rows), (width, height), flags=flags))


def _source_positions(
    height: int,
    width: int,
    bend: float,
    matrix: tuple[tuple[float, float], tuple[float, float]],
    offset: tuple[float, float],
) -> list[Floats]:
    """Return the source position of every pixel: two float32 arrays `(h, w)`, x and y.

    The distortion moves a position at distance r from the centre to r (1 + k r² + k r⁴). r is in
    units of the image's sides (D. C. Brown, Close-range camera calibration, 1971).
    """
    across, down, curve = _grid(height, width)
    stretch = curve * np.float32(bend)
    stretch += np.float32(1)
    positions = []
    for (along_x, along_y), start in zip(matrix, offset, strict=True):
        position = across * np.float32(along_x) + down * np.float32(along_y)
        position *= stretch
        position += np.float32(start)
        positions.append(position)
    return positions


@functools.lru_cache(maxsize=4)
def _grid(height: int, width: int) -> tuple[Floats, Floats, Floats]:
    """Return the distances from the centre, x `(1, w)` and y `(h, 1)`, and r² + r⁴ `(h, w)`."""
    across = (np.arange(width) - (width - 1) / 2)[None, :]
    down = (np.arange(height) - (height - 1) / 2)[:, None]
    square = (across / width) ** 2 + (down / height) ** 2
    curve = (square + square**2).astype(np.float32)
    return across.astype(np.float32), down.astype(np.float32), curve


_LEVELS = np.arange(256) / 255


def _expose(image: Image, settings: Augmentation, draws: dict[str, float]) -> Image:
    """Apply gamma, then contrast and brightness."""
    table = None
    if draws["gamma_changed"] < settings.gamma:
        table = (_LEVELS ** _between(GAMMA, draws["gamma"]) * 255).astype(np.uint8)
    if draws["exposed"] < settings.brightness_contrast:
        levels = _LEVELS * 255 if table is None else table
        contrast = _between(CONTRAST, draws["contrast"])
        brightness = 255 * _between(BRIGHTNESS, draws["brightness"])
        table = np.clip(levels * contrast + brightness, 0, 255).astype(np.uint8)
    if table is None:
        return image
    return np.asarray(sz_lut(np.ascontiguousarray(image), table, inplace=False))


def _sharpen(image: Image, settings: Augmentation, draws: dict[str, float]) -> Image:
    if draws["sharpened"] >= settings.sharpen:
        return image
    strength = _between(SHARPENING, draws["sharpening"])
    kernel = np.full((3, 3), -strength, np.float32)
    kernel[1, 1] = 1 - strength + strength * (8 + _between(LIGHTNESS, draws["lightness"]))
    return np.asarray(cv2.filter2D(image, -1, kernel))


def _erase(image: Image, settings: Augmentation, draws: dict[str, float]) -> Image:
    if not settings.erase or draws["erased"] >= settings.erase:
        return image
    height, width = image.shape
    area = _between(ERASED_AREA, draws["area"]) * height * width
    aspect = math.exp(_between((-1, 1), draws["aspect"]) * math.log(MAX_ERASED_ASPECT))
    tall = min(height, round(math.sqrt(area / aspect)))
    wide = min(width, round(math.sqrt(area * aspect)))
    top, left = (
        int(draws["erased_y"] * (height - tall + 1)),
        int(draws["erased_x"] * (width - wide + 1)),
    )
    erased = image.copy()  # the input may be the caller's array
    erased[top : top + tall, left : left + wide] = 0
    return erased
