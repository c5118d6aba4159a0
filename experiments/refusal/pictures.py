"""Pictures that are no radiographs of one hand: drawn, rendered, or photographs of scikit-image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator

SIZES = ((100, 100), (512, 400))
WORDS = ("left", "hand", "bone", "age", "months", "report", "normal", "study", "12.04.2011")


def stretched(values: npt.NDArray[Any]) -> Image:
    """Return values as grey levels, the lowest as 0 and the highest as 255."""
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) * (255 / max(high - low, 1e-9)), np.uint8)


def clipped(values: npt.NDArray[Any]) -> Image:
    """Return values as grey levels."""
    return np.asarray(np.clip(values, 0, 255), np.uint8)


def white(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw uniform noise."""
    return rng.integers(0, 256, size).astype(np.uint8)


def gaussian(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw normal noise about a grey level."""
    return clipped(rng.normal(rng.uniform(60, 180), rng.uniform(10, 50), size))


def salt(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw white specks."""
    return clipped(np.where(rng.random(size) < rng.uniform(0.05, 0.4), 255, rng.integers(0, 60)))


def blobs(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw smooth noise."""
    sigma = float(rng.choice((0.01, 0.04, 0.12))) * size[0]
    return stretched(cv2.GaussianBlur(rng.normal(size=size), (0, 0), sigma))


def coloured(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw noise whose amplitudes fall with the frequency, as in photographs."""
    across, down = np.meshgrid(np.fft.fftfreq(size[1]), np.fft.fftfreq(size[0]))
    falling = (np.hypot(across, down) + 1 / size[0]) ** rng.uniform(0.8, 1.8)
    return stretched(np.fft.ifft2(np.fft.fft2(rng.normal(size=size)) / falling).real)


def text(rng: Rng, size: tuple[int, int]) -> Image:
    """Render a page of text: black on white, or white on black."""
    height, width = size
    page = np.full(size, 255, np.uint8)
    scale, font = height / 900 * rng.uniform(0.7, 2.5), int(rng.integers(0, 6))
    for y in range(height // 20, height, int(34 * scale) + 4):
        line = " ".join(rng.choice(WORDS, 8))
        cv2.putText(page, line, (width // 20, y), font, scale, 30, max(1, round(2 * scale)))
    if rng.random() < 0.5:
        for _ in range(6):
            y = int(rng.integers(height))
            cv2.line(page, (0, y), (width, y), 0, 2)
    return page if rng.random() < 0.5 else np.asarray(255 - page, np.uint8)


def point(rng: Rng, size: tuple[int, int]) -> tuple[int, int]:
    """Return a random position (x, y)."""
    return int(rng.integers(size[1])), int(rng.integers(size[0]))


def shapes(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw discs, rectangles and ellipses."""
    width = size[1]
    image = np.full(size, int(rng.integers(0, 60)), np.uint8)
    for _ in range(int(rng.integers(1, 7))):
        centre, level = point(rng, size), int(rng.integers(80, 256))
        axes = int(rng.uniform(0.05, 0.5) * width), int(rng.uniform(0.03, 0.16) * width)
        kind = rng.integers(3)
        if kind == 0:
            cv2.circle(image, centre, axes[0] // 2, level, -1)
        elif kind == 1:
            cv2.rectangle(image, centre, point(rng, size), level, -1)
        else:
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, level, -1)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, width / 60)), np.uint8)


def gradients(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw a linear or a radial gradient."""
    y, x = np.mgrid[: size[0], : size[1]] / size[0]
    turn = rng.uniform(0, 2 * np.pi)
    linear = np.cos(turn) * x + np.sin(turn) * y
    return stretched(linear if rng.random() < 0.5 else np.hypot(x - rng.random(), y - rng.random()))


def shafts(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw a long bone with its cortex in soft tissue, half of them with a joint."""
    y, x = np.mgrid[: size[0], : size[1]] / size[0]
    across = x - size[1] / size[0] / 2 - rng.uniform(-0.3, 0.3) * (y - 0.5)
    flesh, bone = rng.uniform(0.15, 0.35), rng.uniform(0.05, 0.12)

    def tube(width: float) -> npt.NDArray[np.float64]:
        return np.sqrt(np.clip(1 - (across / width) ** 2, 0, 1))

    image = 10 + 90 * tube(flesh) + 140 * (tube(bone) - 0.7 * tube(0.7 * bone))
    if rng.random() < 0.5:
        image *= 1 - 0.6 * np.exp(-(((y - 0.5) / 0.02) ** 2))
        image += 40 * (np.abs(y - 0.5) < 0.15) * tube(1.8 * bone)
    return clipped(image + rng.normal(0, 4, size))


def fans(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw rays on a disc: from afar like a hand."""
    height, width = size
    image, centre = np.zeros(size, np.uint8), (width // 2, int(0.8 * height))
    for angle in np.linspace(-0.9, 0.9, int(rng.integers(3, 9))):
        end = (
            int(centre[0] + 0.6 * width * np.sin(angle)),
            int(centre[1] - 0.6 * height * np.cos(angle)),
        )
        cv2.line(image, centre, end, int(rng.integers(120, 255)), max(2, width // 25))
    cv2.circle(image, centre, width // 5, 180, -1)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), width / 100), np.uint8)


def trees(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw a branching tree."""
    height, width = size
    image = np.zeros(size, np.uint8)

    def grow(x: float, y: float, angle: float, length: float, depth: int) -> None:
        end = x + length * np.sin(angle), y - length * np.cos(angle)
        level = int(rng.integers(120, 256))
        start = round(x), round(y)
        cv2.line(image, start, (round(end[0]), round(end[1])), level, max(1, round(length / 5)))
        for _ in range(int(rng.integers(2, 4)) if depth else 0):
            grow(*end, angle + rng.uniform(-0.7, 0.7), length * rng.uniform(0.5, 0.8), depth - 1)

    grow(width / 2, height, rng.uniform(-0.2, 0.2), height * rng.uniform(0.25, 0.4), 4)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), height / 150), np.uint8)


def gratings(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw stripes of two directions."""
    y, x = np.mgrid[: size[0], : size[1]] / size[0]
    waves = np.zeros(size)
    for _ in range(2):
        turn, pitch = rng.uniform(0, np.pi), rng.uniform(3, 30)
        waves += np.sin(
            2 * np.pi * pitch * (np.cos(turn) * x + np.sin(turn) * y) + rng.uniform(0, 6)
        )
    return stretched(waves)


def charts(rng: Rng, size: tuple[int, int]) -> Image:
    """Draw a chart with bars, a curve and axes."""
    height, width = size
    image = np.full(size, 255, np.uint8)
    count = int(rng.integers(3, 9))
    for number in range(count):
        left = width // 8 + number * width * 6 // (8 * count)
        top = int(height * rng.uniform(0.15, 0.8))
        right = left + width * 4 // (8 * count)
        cv2.rectangle(image, (left, top), (right, height * 7 // 8), int(rng.integers(0, 200)), -1)
    cv2.line(image, (width // 8, height * 7 // 8), (width * 7 // 8, height * 7 // 8), 0, 2)
    cv2.line(image, (width // 8, height // 8), (width // 8, height * 7 // 8), 0, 2)
    return image if rng.random() < 0.5 else np.asarray(255 - image, np.uint8)


DRAWN: tuple[Callable[[Rng, tuple[int, int]], Image], ...] = (
    *(white, gaussian, salt, blobs, coloured, text),
    *(shapes, gradients, shafts, fans, trees, gratings, charts),
)


def drawn_pictures(count: int, seed: int) -> Iterator[tuple[str, Image]]:
    """Yield pictures of every kind, with its name; half of them of each size."""
    for number, draw in enumerate(DRAWN):
        rng = np.random.default_rng([seed, number])
        for index in range(count):
            yield draw.__name__, draw(rng, SIZES[index % len(SIZES)])


def photographs(seed: int) -> Iterator[tuple[str, Image]]:
    """Yield the photographs that scikit-image holds, as they are, small, and random parts."""
    import skimage.data

    folder, rng = Path(skimage.data.__file__).parent, np.random.default_rng(seed)
    for path in sorted((*folder.glob("*.png"), *folder.glob("*.jpg"))):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is None or min(image.shape) < 32:
            continue
        image = np.asarray(image, np.uint8)
        yield "photograph", image
        yield (
            "photograph, 100 px",
            np.asarray(cv2.resize(image, (100, 100), interpolation=cv2.INTER_AREA), np.uint8),
        )
        for _ in range(3):
            side = int(min(image.shape) * rng.uniform(0.3, 0.9))
            top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape)
            yield (
                "photograph, part",
                np.ascontiguousarray(image[top : top + side, left : left + side]),
            )
    for face in np.load(folder / "lfw_subset.npy", allow_pickle=False)[:40:2]:
        large = cv2.resize(stretched(face), (100, 100), interpolation=cv2.INTER_CUBIC)
        yield "face", np.asarray(large, np.uint8)
