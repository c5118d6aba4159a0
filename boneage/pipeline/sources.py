"""The sources of a generator's images: an array, files or a store, all read as uint8 rows."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from boneage.errors import Fault, InputError
from boneage.pipeline.store import Store, StoreView
from boneage.radiographs.framing import frame
from boneage.radiographs.image_quality import refuse_blank
from boneage.radiographs.reader import read_radiograph
from boneage.recipe import Framing
from boneage.runtime.schemas import shown

_CHUNK_BYTES = 1 << 24


class ImageSource(Protocol):
    """Images of one size, read by row, also from several threads.

    A source of radiographs also has a method `image_and_gain` (see the function of that name).
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, h, w)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> npt.NDArray[np.uint8]:
        """Return the image of a row: uint8 `(h, w)`. Do not write to it."""


def image_source(images: Any, image_size: int | None, framing: Framing | None) -> ImageSource:
    """Check images of any kind, and return their source.

    Args:
        images: Array, paths, `Store` or `StoreView`.
        image_size: Side in pixels. Paths are framed to it. Other images must have it.
        framing: Framing of paths. Other images must not have one.

    Raises:
        InputError: The images are invalid, or have another size.
    """
    _check_kind_of_framing(framing)
    if _are_paths(images):
        return PathImages([Path(path) for path in images], _path_framing(image_size, framing))
    source: ImageSource
    if isinstance(images, (Store, StoreView, TwoFramings)):
        source = images
    elif isinstance(images, (str, os.PathLike)):
        fix = "Pass a list of paths, an array, or open_store(path) for a store."
        raise InputError(Fault("images", f"it is one path ({images})", fix))
    else:
        source = ArrayImages(_stacked(images))
    if len(source) == 0:
        raise _no_images()
    faults = []
    if image_size is not None and source.shape[1:] != (image_size, image_size):
        height, width = source.shape[1:]
        faults.append(
            Fault(
                "image_size",
                f"it is {shown(image_size)}, but the images are {height} x {width}",
                "Resize the images, prepare the store at that size, or leave image_size out.",
            )
        )
    if framing is not None:
        faults.append(
            Fault(
                "framing",
                "it is only for paths, but the images are already decoded",
                "Leave framing out, or call frame() on the images first.",
            )
        )
    if faults:
        raise InputError(faults)
    return source


def image_and_gain(source: ImageSource, row: int) -> tuple[npt.NDArray[np.uint8], float]:
    """Return the image of a row, and how many of its levels are one level of its radiograph.

    The second is `Framed.gain`, or 1.0 if the source does not know it.
    """
    read = getattr(source, "image_and_gain", None)
    return (source[row], 1.0) if read is None else read(row)


def sample_image(source: ImageSource) -> npt.NDArray[np.uint8]:
    """Return the first image of a source: uint8 `(h, w)`. For paths, it is drawn, not decoded."""
    if not isinstance(source, PathImages):
        return np.array(source[0])
    _, height, width = source.shape
    down, across = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray(np.clip(255 * (1 - down**2 - across**2), 0, 255), np.uint8)


@dataclass(frozen=True)
class TwoFramings:
    """Two framings of the same radiographs. Every epoch has one or the other of each radiograph.

    Attributes:
        usual: The images that are read by row.
        other: The same radiographs, framed in another way to the same size.
        share: Probability of the other framing, for each radiograph and epoch.
    """

    usual: StoreView
    other: StoreView
    share: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, h, w)`."""
        return self.usual.shape

    @property
    def image_ids(self) -> list[str]:
        """Return the names of the rows."""
        return self.usual.image_ids

    def __len__(self) -> int:
        return len(self.usual)

    def __getitem__(self, row: int) -> npt.NDArray[np.uint8]:
        """Return the usual image of a row: uint8 `(h, w)`, read-only."""
        return self.usual[row]

    def drawn(self, *words: int) -> StoreView:
        """Return the framing that is drawn from these numbers, which must not be negative."""
        return self.other if np.random.default_rng(words).random() < self.share else self.usual


class ArrayImages:
    """The rows of an array, converted to grey and uint8 when they are read."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        """Check an array `(n, h, w)`, `(n, h, w, 1)` or RGB `(n, h, w, 3)`, without a copy.

        Raises:
            InputError: The shape or the type is another, or pixels are not in 0-255.
        """
        if array.size == 0:
            raise _no_images()
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
            raise _unsuitable(f"its shape is {array.shape}", "Stack the images along a first axis.")
        if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
            raise _unsuitable(f"its type is {array.dtype}", "Pass the pixels as numbers.")
        if array.dtype != np.uint8:
            _check_range(array)
        self._array = array

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, h, w)`."""
        count, height, width = self._array.shape[:3]
        return count, height, width

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: int) -> npt.NDArray[np.uint8]:
        """Return the image of a row: uint8 `(h, w)`."""
        image = self._array[row]
        if image.dtype != np.uint8:
            image = np.rint(image).astype(np.uint8)
        if image.ndim == 3:
            image = (
                cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
            )
        return np.asarray(image, np.uint8)


class PathImages:
    """Image files, decoded and framed each time a row is read."""

    def __init__(self, paths: Sequence[Path], framing: Framing) -> None:
        """Check that all files exist.

        Raises:
            InputError: Some files are missing. It names all of them.
        """
        faults = [
            Fault(
                str(path),
                "this is not a file" if path.exists() else "this file does not exist",
                "Correct the path.",
            )
            for path in paths
            if not path.is_file()
        ]
        if faults:
            raise InputError(faults)
        self._paths = paths
        self._framing = framing

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(n, size, size)`."""
        return len(self._paths), self._framing.size, self._framing.size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> npt.NDArray[np.uint8]:
        """Return the image of a row: uint8 `(size, size)`."""
        return self.image_and_gain(row)[0]

    def image_and_gain(self, row: int) -> tuple[npt.NDArray[np.uint8], float]:
        """Return the image of a row, and its gain (see `Framed.gain`)."""
        image = read_radiograph(self._paths[row])
        refuse_blank(image, self._paths[row])
        framed = frame(image, self._framing)
        return framed.pixels, framed.gain


def _are_paths(images: Any) -> bool:
    if isinstance(images, (str, bytes, os.PathLike, Store, StoreView, TwoFramings, Mapping)):
        return False
    if getattr(images, "ndim", 1) != 1:  # a table of pandas lists its columns
        return False
    try:
        return len(images) > 0 and all(isinstance(path, (str, os.PathLike)) for path in images)
    except TypeError:
        return False


def _check_kind_of_framing(framing: Any) -> None:
    if framing is not None and not isinstance(framing, Framing):
        fix = "Pass Framing(size=...), or image_size."
        raise InputError(Fault("framing", f"it is {shown(framing)}", fix))


def _path_framing(image_size: int | None, framing: Framing | None) -> Framing:
    if framing is None:
        return Framing() if image_size is None else Framing(size=image_size)
    if image_size not in (None, framing.size):
        what = f"it is {image_size}, but framing.size is {framing.size}"
        raise InputError(Fault("image_size", what, "Leave image_size out."))
    return framing


def _stacked(images: Any) -> npt.NDArray[Any]:
    if getattr(images, "ndim", None) == 1 and not isinstance(images, Mapping):
        images = list(images)  # a column of arrays
    array = None
    with contextlib.suppress(ValueError):  # numpy refuses arrays of different shapes
        array = np.asarray(images)
    if array is not None and (array.dtype.kind not in "OSU" or isinstance(images, np.ndarray)):
        return array
    if not isinstance(images, Sequence):
        raise _unsuitable(f"it is a {type(images).__name__}", "Pass an array, or a list of paths.")
    are_paths = [isinstance(image, (str, os.PathLike)) for image in images]
    are_mostly = sum(are_paths) * 2 > len(images)
    for row, (image, is_path) in enumerate(zip(images, are_paths, strict=True)):
        if image is None or isinstance(image, bytes) or is_path != are_mostly:
            fix = "Pass arrays alone, or paths alone. cv2.imread returns None if it reads no image."
            raise _unsuitable(f"image {row} is {shown(image)}", fix)
    fix = "Resize them to one size, or pass paths and an image_size."
    raise _unsuitable("the images have different sizes", fix)


def _check_range(array: npt.NDArray[Any]) -> None:
    step = max(1, _CHUNK_BYTES // array[0].nbytes)
    low, high = math.inf, -math.inf
    for start in range(0, len(array), step):
        chunk = array[start : start + step]
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise _unsuitable(
                "some pixels are NaN or infinite", "Correct or leave out those images."
            )
    if low < 0 or high > 255:
        raise _unsuitable(f"its pixels run from {low:g} to {high:g}", "Scale the pixels to 0-255.")
    if high <= 1 and np.issubdtype(array.dtype, np.floating):
        raise _unsuitable(
            f"its pixels run from {low:g} to {high:g}, so they are already scaled",
            "Multiply the pixels by 255. The generator divides them after augmentation.",
        )


def _unsuitable(what: str, fix: str) -> InputError:
    expected = "(n, h, w), (n, h, w, 1) or RGB (n, h, w, 3) with pixels in 0-255"
    return InputError(Fault("images", what, fix, expected=expected))


def _no_images() -> InputError:
    return InputError(Fault("images", "there are no images", "Pass at least one image."))
