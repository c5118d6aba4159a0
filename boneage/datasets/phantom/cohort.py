"""The phantom cohort: synthetic hand radiographs with known bone ages, nothing to download.

An image depends on the maturity of the hand (`ossification`), on the child's own scatter around
it, and on pose and exposure. The sex shows only through the maturity: in the teens, the same hand
is about two years older for a boy than for a girl.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.progress import track

from boneage.datasets.manifest import Manifest, read_manifest, write_manifest
from boneage.datasets.phantom.exposure import draw_exposure, expose
from boneage.datasets.phantom.ossification import CENTRES, ROUND_BONES, Sex, maturity_months
from boneage.datasets.phantom.skeleton import Build, Pose, build_hand, hand_length_share
from boneage.datasets.phantom.tissue import View, draw_bones, draw_flesh
from boneage.datasets.splits import assign_splits
from boneage.errors import Fault, InputError
from boneage.runtime.files import read_json, write_bytes, write_json
from boneage.runtime.machine import check_disk, check_workers
from boneage.runtime.provenance import usable_cores
from boneage.runtime.threads import threads

DRAWING_VERSION = 2
"""Increases when the same seed draws another image. A folder of another version is refused."""

SMALLEST_SIZE = 64

MAX_COUNT = 1_000_000
_PURPOSE = 0x504E544D  # keeps these streams apart from others of the same seed
_DESCRIPTION = "phantom.json"
_STALE_SECONDS = 600.0

# Shape of the RSNA 2017 training labels (12,611 radiographs; Halabi et al., Radiology
# 2019;290:498): 54.2 % boys, means 135.3 (boys) and 117.9 months (girls), SD 41.2 overall, 1 to
# 228. Ages are drawn by linear interpolation between these percentiles, rounded from that set.
_BOYS_SHARE = 0.542
_AGE_PERCENTS = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
_AGE_MONTHS = {
    "F": (1, 24, 50, 69, 94, 120, 144, 163, 177, 196, 220),
    "M": (1, 25, 57, 76, 110, 146, 164, 180, 192, 212, 228),
}


@dataclass(frozen=True, slots=True)
class PhantomRadiograph:
    """One radiograph of the cohort with its label.

    Attributes:
        image: uint8 (size, size), dense is bright.
        age_months: Bone age, whole months, 1 to 228.
        sex: "F" or "M".
    """

    image: npt.NDArray[np.uint8]
    age_months: float
    sex: Sex


def draw_hand(
    age_months: float, sex: Sex, *, rng: np.random.Generator, size: int = 256
) -> npt.NDArray[np.uint8]:
    """Draw the left hand of one child, palm down, thumb to the right.

    Args:
        age_months: Bone age, months, 0 to 240.
        sex: "F" or "M"; it changes the maturity and nothing else.
        rng: Source of the child's scatter, the pose and the exposure.
        size: Side of the image, pixels, 64 or more.

    Returns:
        uint8 (size, size), dense is bright.
    """
    build = _draw_build(maturity_months(age_months, sex), rng)
    pose = _draw_pose(rng)
    share = hand_length_share(build.maturity)
    view = _draw_view(share, size, rng)
    exposure = draw_exposure(rng)
    hand = build_hand(build, pose)
    # A small hand is thin. The tube is set for it, so the absorption falls less than the size.
    thinner = np.float32(share**0.55)
    bone = draw_bones(hand.bones, view) * thinner
    flesh = draw_flesh(hand.outlines, view) * thinner
    return expose(bone, flesh, exposure, rng)


def phantom(seed: int, index: int, size: int = 256) -> PhantomRadiograph:
    """Return radiograph `index` of a cohort: the same on every machine and in every order.

    Args:
        seed: Seed of the cohort, 0 or more.
        index: 0 or more.
        size: Side of the image, pixels, 64 or more.

    Returns:
        The radiograph. Ages and sexes are distributed as in the RSNA training set.
    """
    rng = np.random.default_rng([seed, _PURPOSE, index])
    age_months, sex = draw_label(rng)
    return PhantomRadiograph(draw_hand(age_months, sex, rng=rng, size=size), age_months, sex)


def make_phantom_cohort(
    out: Path,
    *,
    count: int = 1500,
    seed: int = 0,
    size: int = 256,
    progress: bool = True,
    workers: int | None = None,
) -> Manifest:
    """Write `out/images/NNNNNN.png` and `out/manifest.csv` with splits 80/10/10.

    Every file is written in one step. A killed run continues where it stopped, and a finished
    cohort is opened without drawing.

    Args:
        out: A new or empty folder, or one with this same cohort, whole or in part.
        count: Number of radiographs, 10 or more.
        seed: Another seed draws other children.
        size: Side of the images, pixels, 64 or more.
        progress: Show progress on standard error.
        workers: Number of threads; None for one per core.

    Returns:
        The cohort's manifest.

    Raises:
        InputError: A number is out of range, or `out` holds something else or can't be written.
    """
    out = Path(out)
    _check_numbers(count, seed, size)
    if workers is not None:
        check_workers(workers, "workers")
    if not out.exists():
        fix = "Draw fewer or smaller images, or name a folder on another disk."
        check_disk(out, count * size * size // 2, fix)
    with _readable_faults(out):
        _claim(out, {"drawing": DRAWING_VERSION, "count": count, "seed": seed, "size": size})
        images = out / "images"
        images.mkdir(exist_ok=True)
        drawn = {path.name for path in images.iterdir()}
        missing = [i for i in range(count) if _file_name(i) not in drawn]
        manifest_path = out / "manifest.csv"
        if not missing and manifest_path.exists():
            return read_manifest(manifest_path)
        _draw_files(images, missing, seed, size, workers or usable_cores(), progress)
        _sweep(images)
    labels = [draw_label(np.random.default_rng([seed, _PURPOSE, i])) for i in range(count)]
    table = pd.DataFrame(
        {
            "image_id": [f"{i:06d}" for i in range(count)],
            "image": [f"images/{_file_name(i)}" for i in range(count)],
            "age_months": [age for age, _ in labels],
            "sex": [sex for _, sex in labels],
            "source": "phantom",
        }
    )
    return write_manifest(assign_splits(table, seed=seed), manifest_path)


def draw_label(rng: np.random.Generator) -> tuple[float, Sex]:
    """Return the age in whole months and the sex: the first two random numbers of a radiograph."""
    sex: Sex = "M" if rng.random() < _BOYS_SHARE else "F"
    return float(round(np.interp(100 * rng.random(), _AGE_PERCENTS, _AGE_MONTHS[sex]))), sex


def _draw_build(maturity: float, rng: np.random.Generator) -> Build:
    """Return a child of this maturity; carpals, long bones and centres scatter by a few months."""
    chance = np.clip(rng.standard_normal(64), -2.5, 2.5).tolist()
    scatter = min(maturity / 48.0, 1.0)
    carpals, tubes = 2.0 * scatter * chance[0], 1.5 * scatter * chance[1]
    centres = {}
    for i, centre in enumerate(CENTRES):
        group = carpals if centre.name in ROUND_BONES else tubes
        centres[centre.name] = max(maturity + group + 2.0 * scatter * chance[2 + i], 0.0)
    return Build(
        maturity=max(maturity + tubes, 0.0),
        centres=centres,
        stoutness=1 + 0.035 * chance[60],
        mineral=1 + 0.1 * chance[62],
        lengths=tuple(1 + 0.02 * c for c in chance[50:55]),
        flesh=1 + 0.07 * chance[61],
    )


def _draw_pose(rng: np.random.Generator) -> Pose:
    u = rng.random(10).tolist()
    return Pose(
        splay=-0.4 + 2.1 * u[5],
        thumb=float(np.radians(32 + 32 * u[6])),
        bends=tuple(0.10 * (x - 0.5) for x in u[:5]),
        wrist=float(np.radians(-9 + 18 * u[7])),
    )


def _draw_view(share: float, size: int, rng: np.random.Generator) -> View:
    """Return where the hand lies on the radiograph.

    Radiographs are cropped to the hand, so a small hand appears nearly as large as an adult's. The
    size says something about the age, but distance, cropping and scaling blur it.
    """
    u = rng.random(6).tolist()
    visible = 248.0 * share**-0.45 / (0.84 + 0.22 * u[0])  # millimetres of the adult plane
    angle = float(np.radians(28 * (u[1] - 0.5)))
    # The fingertips must be on the radiograph, so only the forearm is cut off.
    centre = (6.0, 186.0 - 0.5 * visible)
    position = (size * (0.5 + 0.07 * (u[2] - 0.5)), size * (0.5 + 0.05 * u[3]))
    return View(size, size / visible, angle, centre, position)


def _file_name(index: int) -> str:
    return f"{index:06d}.png"


def _check_numbers(count: int, seed: int, size: int) -> None:
    faults = [
        Fault(
            f"--{name}",
            f"the {name} of a phantom cohort is {value}",
            f"Use {least} or more." if value < least else f"Use {largest} or less.",
        )
        for name, value, least, largest in (
            ("count", count, 10, MAX_COUNT),
            ("seed", seed, 0, 2**32 - 1),
            ("size", size, SMALLEST_SIZE, 2048),
        )
        if not least <= value <= largest
    ]
    if faults:
        raise InputError(faults)


@contextmanager
def _readable_faults(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            Fault(
                str(error.filename or out),
                f"the phantom cohort can't be written ({error.strerror})",
                "Name a writable folder on a disk with free space.",
            )
        ) from None


def _claim(out: Path, description: dict[str, int]) -> None:
    """Mark a new folder as this cohort's, or check that it is; refuse any other folder."""
    if out.exists() and not out.is_dir():
        _refuse(out, "it is a file, not a folder")
    out.mkdir(parents=True, exist_ok=True)
    path = out / _DESCRIPTION
    if not path.exists():
        # A killed write of the description may have left its temporary file.
        others = sorted(p.name for p in out.iterdir() if not p.name.startswith(f".{_DESCRIPTION}"))
        if others:
            _refuse(out, f"it already holds other files ({', '.join(others[:3])})")
        write_json(path, description)
        return
    try:
        found = read_json(path)
    except InputError:
        _refuse(out, f"its {_DESCRIPTION} can't be read")
    if found != description:
        other = found if isinstance(found, dict) else {}
        differing = [
            f"{key} {other.get(key)} instead of {value}"
            for key, value in description.items()
            if other.get(key) != value
        ]
        _refuse(out, f"it holds another phantom cohort ({', '.join(differing)})")


def _refuse(out: Path, what: str) -> NoReturn:
    raise InputError(Fault(str(out), what, "Name a new or empty folder, or remove this one first."))


def _sweep(folder: Path) -> None:
    """Remove the unfinished files of killed runs, but not what another run is writing now."""
    for path in folder.glob(".*.part"):
        try:
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue  # another run has just finished it


def _draw_files(
    folder: Path, indices: list[int], seed: int, size: int, workers: int, progress: bool
) -> None:
    def draw(index: int) -> None:
        radiograph = phantom(seed, index, size)
        done, png = cv2.imencode(".png", radiograph.image, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        if not done:
            raise RuntimeError(f"OpenCV could not encode radiograph {index}")
        write_bytes(folder / _file_name(index), png.tobytes())

    console = Console(stderr=True)
    with threads(workers) as pool:
        for _ in track(
            pool.map(draw, indices),
            f"Drawing {size} px phantoms",
            total=len(indices),
            console=console,
            disable=not (progress and indices),
        ):
            pass
