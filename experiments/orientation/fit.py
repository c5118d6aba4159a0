"""Fit the classifiers of `boneage/radiographs/orientation.npz` to drawn hands.

    python experiments/orientation/fit.py boneage/radiographs/orientation.npz

It takes two minutes on two cores. Four linear models are fitted to 2,000 phantoms, on all kinds of
radiograph: fogged, turned by up to 28 degrees, small in a dark or white frame, with markers and
beam edges. No real radiograph is used.

- `window`: an upright hand that fills the window, or anything else (the worst mistakes are added
  four times);
- `whole`: which of four turns of a radiograph is upright;
- `pair`: two hands side by side, or one;
- `polarity`: dense is bright, or dark. It has no bias, so inverting the image negates the score.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from scipy.optimize import minimize

from boneage.datasets.phantom.cohort import phantom
from boneage.radiographs.image_quality import grey_bands
from boneage.radiographs.orientation import (
    DIRECTIONS,
    RATIOS,
    WINDOW_PIXELS,
    gradient_cells,
    turned,
    unit,
    windows_of,
)

SIDE, CANVAS, PHANTOMS, SEED = 128, 192, 2000, 77
Array = np.ndarray


def draw_all() -> Array:
    """Draw the phantoms for all fits, uint8 (n, 128, 128)."""
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda i: phantom(SEED, i, SIDE).image, range(PHANTOMS))))


def radiograph(drawn: Array, rng: np.random.Generator, small: float = 0.55) -> tuple[Array, Array]:
    """Draw one hand on a canvas; return both it and the hand's left, top, width and height."""
    fills = rng.random() > small
    scale = CANVAS * (rng.uniform(0.95, 1.3) if fills else rng.uniform(0.33, 0.9))
    aspect = rng.uniform(0.72, 1.3) ** 0.5
    width, height = scale * aspect, scale / aspect
    if not fills:
        width, height = min(width, 0.98 * CANVAS), min(height, 0.98 * CANVAS)
    angle = rng.uniform(-28, 28)
    tilted = not fills and rng.random() < 0.4  # the radiograph itself, with its edges
    h = (drawn.astype(np.float32) / 255) ** rng.uniform(0.6, 1.5)
    fog = rng.uniform(0, 0.6) * (rng.random() < 0.4)
    h = fog + (1 - fog) * h
    middle = (SIDE / 2, SIDE / 2)
    if not tilted:
        turn = cv2.getRotationMatrix2D(middle, angle, rng.uniform(0.85, 1.05))
        h = cv2.warpAffine(h, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.35:  # a beam's straight edge
        a, (y, x) = rng.uniform(0, 2 * np.pi), np.mgrid[:SIDE, :SIDE] - SIDE / 2
        h = (
            np.where(x * np.cos(a) + y * np.sin(a) > rng.uniform(40, 75), rng.uniform(0.3, 1.8), 1)
            * h
        )
    if rng.random() < 0.75:
        h = marked(h, rng)
    if not fills and rng.random() < 0.5:  # a bright rim
        corner = (SIDE - 1, SIDE - 1)
        cv2.rectangle(h, (0, 0), corner, rng.uniform(0.5, 1.2), int(rng.integers(1, 3)))
    left = rng.uniform(*sorted((0, CANVAS - width)))
    top = rng.uniform(*sorted((0, CANVAS - height)))
    place = np.array([[width / SIDE, 0, left], [0, height / SIDE, top]])
    if tilted:
        place = place @ np.vstack([cv2.getRotationMatrix2D(middle, angle, 1), [0, 0, 1]])
    canvas = cv2.warpAffine(
        h.astype(np.float32), place, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE if fills else cv2.BORDER_CONSTANT,
        borderValue=float(rng.choice([0, rng.uniform(0, 1), 1])),
    )  # fmt: skip
    return exposed(canvas, rng), np.array([left, top, width, height]) / CANVAS


def marked(h: Array, rng: np.random.Generator) -> Array:
    """Return a radiograph with a letter on it."""
    h = np.ascontiguousarray(h, np.float32)
    at = (int(rng.integers(0, h.shape[1] - 20)), int(rng.integers(15, h.shape[0])))
    word = str(rng.choice(["L", "R", "LA", "KM"]))
    cv2.putText(h, word, at, 0, rng.uniform(0.3, 0.8), float(h.max()), int(rng.integers(1, 3)))
    return h


def exposed(h: Array, rng: np.random.Generator) -> Array:
    """Return a radiograph with its exposure and noise, float32 0 to 255."""
    noisy = np.clip(h, 0, 1) * rng.uniform(60, 255) + rng.normal(0, rng.uniform(0, 6), h.shape)
    return np.clip(noisy, 0, 255).astype(np.float32)


def pair(phantoms: Array, rng: np.random.Generator) -> Array:
    """Draw two hands on one radiograph, mostly of one child."""

    def placed(drawn: Array) -> Array:
        turn = cv2.getRotationMatrix2D(
            (SIDE / 2, SIDE / 2), rng.uniform(-20, 20), rng.uniform(0.75, 1.1)
        )
        turn[:, 2] += rng.uniform(-8, 8, 2)
        return cv2.warpAffine(drawn, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REPLICATE)

    first, other = phantoms[rng.integers(len(phantoms), size=2)]
    right, left = placed(first), placed(first if rng.random() < 0.7 else other)[:, ::-1]
    gap = int(rng.integers(-14, 40))
    between = np.full((SIDE, max(gap, 0)), min(right[:, -1].min(), left[:, 0].min()), np.uint8)
    both = np.hstack([right[:, : SIDE + min(gap, 0)], between, left])
    both = both[:, ::-1] if rng.random() < 0.5 else both
    rim = int(rng.integers(0, 25)) * (rng.random() < 0.5)
    both = cv2.copyMakeBorder(both, rim, 0, 0, 0, cv2.BORDER_REPLICATE)
    h = (both.astype(np.float32) / 255) ** rng.uniform(0.6, 1.5)
    return exposed(marked(h, rng) if rng.random() < 0.75 else h, rng)


def cut(canvas: Array, left: float, top: float, width: float, height: float) -> Array:
    """Return a window of a canvas, which may reach over its edges, as a square."""
    side = 2 * WINDOW_PIXELS
    place = np.array(
        [[width * CANVAS / side, 0, left * CANVAS], [0, height * CANVAS / side, top * CANVAS]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(canvas, place, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def cut_radiograph(canvas: Array, box: Array, rng: np.random.Generator, most: float) -> Array:
    """Return the radiograph with a margin of up to `most` of its size."""
    left, top, width, height = box
    more = rng.uniform(-0.03, most, 4) * (rng.random() < 0.6)
    x0, y0 = max(0, left - more[0] * width), max(0, top - more[1] * height)
    x1, y1 = min(1, left + width * (1 + more[2])), min(1, top + height * (1 + more[3]))
    return cut(canvas, x0, y0, x1 - x0, y1 - y0)


def features(picture: Array) -> Array:
    """Return the cells of one image."""
    return unit(gradient_cells(picture, WINDOW_PIXELS))


def mirrored(cells: Array) -> Array:
    """Return the cells of the mirrored radiographs."""
    return cells[..., ::-1, :][..., -np.arange(DIRECTIONS) % DIRECTIONS]


def four(cells: Array) -> Array:
    """Return the four turns of cells: (n, 4, 512) of (n, 8, 8, 8)."""
    return np.stack([[turned(c, k).ravel() for k in range(4)] for c in cells])


def drawn_each(
    count: int, purpose: int, make: Callable[[int, np.random.Generator], Array]
) -> Array:
    """Draw `count` examples, each with its own random generator."""
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda i: make(i, np.random.default_rng([purpose, i])), range(count))
        return np.stack(list(made))


def logistic(x: Array, y: Array, weight: Array, decay: float, *, bias: bool = True) -> Array:
    """Fit a logistic regression; the bias comes last."""
    x = np.hstack([x, np.ones((len(x), 1))]) if bias else x
    x = x.astype(np.float64)

    def loss(p: Array) -> tuple[float, Array]:
        s, w = x @ p, p * ([1] * (len(p) - bias) + [0] * bias)
        value = float((weight * (np.logaddexp(0, s) - y * s)).sum() + decay * (w @ w) / 2)
        return value, x.T @ (weight * (1 / (1 + np.exp(-s)) - y)) + decay * w

    found = minimize(
        loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    print(f"  loss {found.fun:.3f}")
    return found.x


def fit_whole(phantoms: Array) -> Array:
    """Fit which of four turns of a radiograph is upright."""

    def example(i: int, rng: np.random.Generator) -> Array:
        return features(cut_radiograph(*radiograph(phantoms[i % PHANTOMS], rng), rng, 0.35))

    cells = drawn_each(8000, 9, example)
    x = four(np.concatenate([cells, mirrored(cells)])).astype(np.float64)

    def loss(w: Array, decay: float = 1e-4) -> tuple[float, Array]:
        s = x @ w
        s -= s.max(1, keepdims=True)
        p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        slope = (np.einsum("nk,nkf->nf", p, x) - x[:, 0]).mean(0)
        return float(-np.log(p[:, 0] + 1e-12).mean() + decay * (w @ w) / 2), slope + decay * w

    found = minimize(
        loss, np.zeros(x.shape[2]), jac=True, method="L-BFGS-B", options={"maxiter": 150}
    )
    print(f"  loss {found.fun:.3f}, upright {((x @ found.x).argmax(1) == 0).mean():.3%}")
    return found.x


def overlap(box: Array, places: Array) -> Array:
    """Return the intersection over union of a radiograph and windows."""
    left, top, width, height = box
    x, y, side = places.T
    across = np.clip(np.minimum(left + width, x + side) - np.maximum(left, x), 0, None)
    down = np.clip(np.minimum(top + height, y + side) - np.maximum(top, y), 0, None)
    return across * down / (width * height + side**2 - across * down)


def fit_window(phantoms: Array) -> Array:
    """Fit an upright hand that fills the window, against anything else."""
    rng = np.random.default_rng(3)
    radiographs = [radiograph(phantoms[i % PHANTOMS], rng) for i in range(2400)]
    good = []
    for canvas, (left, top, width, height) in radiographs:
        for _ in range(2):
            scale, square = rng.uniform(0.88, 1.15), np.sqrt(width * height)
            w, h = (width * scale, height * scale) if rng.random() < 0.5 else (square * scale,) * 2
            x = left + width / 2 - w / 2 + rng.uniform(-0.07, 0.07) * w
            y = top + height / 2 - h / 2 + rng.uniform(-0.07, 0.07) * h
            good.append(features(cut(canvas, x, y, w, h)))
    good = np.stack(good)
    bad = [four(good)[:, 1:].reshape(-1, good[0].size)]
    good = np.concatenate([good, mirrored(good)]).reshape(2 * len(good), -1)

    def worst(p: Array | None) -> Array:
        found = []
        for i in range(600):
            canvas, box = radiograph(phantoms[i % PHANTOMS], rng)
            windows, places = windows_of(canvas, (*RATIOS, 3.05))
            x, near = four(windows), overlap(box, places) > 0.45
            scores = rng.normal(5, 1, x.shape[:2]) if p is None else x @ p[:-1] + p[-1]
            scores[near, 0] = -9
            top = np.argsort(scores.ravel())[::-1][:6]
            found += [x[j // 4, j % 4] for j in top if scores.ravel()[j] > -1]
        return np.stack(found)

    p = None
    for _ in range(5):
        bad.append(worst(p))
        x = np.concatenate([good, *bad])
        y = np.arange(len(x)) < len(good)
        p = logistic(x, y, np.where(y, 0.5 / len(good), 0.5 / (len(x) - len(good))), 3e-5)
    return p


def fit_pair(phantoms: Array) -> Array:
    """Fit two hands side by side, against one."""

    def example(i: int, rng: np.random.Generator) -> Array:
        if i % 2:
            return features(pair(phantoms, rng))
        canvas = radiograph(phantoms[i % PHANTOMS], rng, small=0.3)[0]
        turn = int(rng.choice([0, 0, 0, 0, 1, 2, 3]))
        return features(np.ascontiguousarray(np.rot90(canvas, turn)))

    cells = drawn_each(8000, 11, example)
    x = np.concatenate([cells, mirrored(cells)]).reshape(2 * len(cells), -1)
    y = np.tile(np.arange(len(cells)) % 2, 2)
    return logistic(x, y, np.full(len(x), 1 / len(x)), 1e-4)


def fit_polarity(phantoms: Array) -> Array:
    """Fit whether dense is bright or dark."""

    def example(i: int, rng: np.random.Generator) -> Array:
        return grey_bands(cut_radiograph(*radiograph(phantoms[i % PHANTOMS], rng), rng, 0.3))

    bands = drawn_each(6000, 19, example)
    x = np.concatenate([bands, bands[:, :, ::-1]]).reshape(2 * len(bands), -1)
    return logistic(x, np.ones(len(x)), np.full(len(x), 1 / len(x)), 1e-2, bias=False)


def main() -> None:
    """Fit all four classifiers and write them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", help="file to write, npz")
    out = parser.parse_args().out
    phantoms = draw_all()
    classifiers = {}
    for name, fit in (("window", fit_window), ("whole", fit_whole), ("pair", fit_pair)):
        print(name)
        p = fit(phantoms)
        shape = gradient_cells(phantoms[0].astype(np.float32), WINDOW_PIXELS).shape
        classifiers[name] = p[: np.prod(shape)].reshape(shape).astype(np.float32)
        classifiers[f"{name}_bias"] = np.float32(p[-1] if len(p) > np.prod(shape) else 0)
    print("polarity")
    shape = grey_bands(phantoms[0].astype(np.float32)).shape
    classifiers["polarity"] = fit_polarity(phantoms).reshape(shape).astype(np.float32)
    np.savez_compressed(out, **classifiers)


if __name__ == "__main__":
    main()
