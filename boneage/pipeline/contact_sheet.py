"""Contact sheets: each radiograph next to the image that the model gets, unusual crops first."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.progress import track

from boneage.datasets.label_rules import years_and_months
from boneage.datasets.manifest import Manifest
from boneage.pipeline.store import Store
from boneage.radiographs.framing import HAND
from boneage.radiographs.hand_detection import WHOLE_RADIOGRAPH
from boneage.radiographs.reader import Radiograph, read_dimensions, read_radiograph
from boneage.runtime.files import write_bytes

CELL = 220
"""Side of an image on a sheet, in pixels."""
COLUMNS, ROWS = 5, 4

LEGEND = "blue: the crop; red: no hand found, whole radiograph kept; most unusual first"

_GAP, _CAPTION, _HEADER = 10, 40, 18
_PAPER, _INK = 28, 235
_BOX, _WHOLE = (255, 160, 40), (70, 70, 255)  # blue, green, red: OpenCV's order
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_MAX_ID_LENGTH = 36  # characters, which leaves space for the age


def rank_crops(manifest: Manifest, store: Store) -> pd.DataFrame:
    """Return the crops of a manifest's radiographs, the most unusual first.

    First come radiographs without a detected hand, then rotated ones. The others are ordered by
    how much the area and the aspect ratio of the crop differ from the medians.

    Args:
        manifest: The manifest.
        store: The store prepared from it.

    Returns:
        The store's frames, with `row` (in the manifest), `age_months` and `sex`.
    """
    frames = store.frames()
    radiographs = zip(manifest.image_paths(), manifest.regions(), strict=True)
    areas = [_area(path, region) for path, region in radiographs]
    width, height = frames["right"] - frames["left"], frames["bottom"] - frames["top"]
    share = np.log(width * height / np.array(areas))
    aspect = np.log(width / height)
    oddness = (share - share.median()).abs() + (aspect - aspect.median()).abs()
    oddness += 100.0 * (frames["why"] != HAND) + 50.0 * (frames["rotation"] != 0)
    labels = {name: manifest.table[name].to_numpy() for name in ("age_months", "sex")}
    order = np.argsort(-oddness.to_numpy(), kind="stable")
    return frames.assign(row=np.arange(len(frames)), **labels).iloc[order].reset_index(drop=True)


def write_contact_sheet(
    manifest: Manifest, store: Store, folder: Path, *, count: int = 60, progress: bool = True
) -> list[Path]:
    """Write contact sheets of the radiographs with the most unusual crops.

    Each radiograph is shown with its crop drawn in and its contrast stretched, next to the image
    in the store. Older sheets in the folder are removed.

    Args:
        manifest: The manifest.
        store: The store prepared from it.
        folder: Folder of the files `contact-sheet-01.png` and so on.
        count: Number of radiographs, at least 1. There are 20 on a sheet.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The files written.

    Raises:
        InputError: A radiograph can't be read, or the folder can't be written to.
    """
    chosen = rank_crops(manifest, store).head(count)
    per_sheet = COLUMNS * ROWS
    sheets = [chosen[start : start + per_sheet] for start in range(0, len(chosen), per_sheet)]
    shown: Iterable[pd.DataFrame] = sheets
    if progress:
        shown = track(sheets, "Drawing sheets", console=Console(stderr=True))
    written = []
    paths, regions = manifest.image_paths(), manifest.regions()
    for number, sheet in enumerate(shown, start=1):
        cells = []
        for crop in sheet.to_dict("records"):
            row = crop["row"]
            cells.append(_cell(read_radiograph(paths[row]), store[row], crop, regions[row]))
        if number == 1:
            _remove_sheets(folder)
        path = folder / f"contact-sheet-{number:02d}.png"
        _, png = cv2.imencode(".png", _sheet(cells))
        write_bytes(path, png.tobytes())
        written.append(path)
    return written


def _remove_sheets(folder: Path) -> None:
    for path in folder.glob("contact-sheet-*.png"):
        if re.fullmatch(r"contact-sheet-\d{2,}\.png", path.name):  # no file of the user's
            path.unlink()


def _area(path: Path, region: tuple[int, int, int, int] | None) -> int:
    if region is not None:
        left, top, right, bottom = region
        return (right - left) * (bottom - top)
    width, height = read_dimensions(path)
    return width * height


def _cell(
    radiograph: Radiograph,
    framed: npt.NDArray[np.uint8],
    crop: dict[Hashable, Any],
    region: tuple[int, int, int, int] | None,
) -> npt.NDArray[np.uint8]:
    """Draw a radiograph and its framed image side by side, with a caption below."""
    left, top, right, bottom = region or (0, 0, radiograph.shape[1], radiograph.shape[0])
    radiograph = radiograph[top:bottom, left:right]
    scale = CELL / max(radiograph.shape)
    size = (max(1, round(radiograph.shape[1] * scale)), max(1, round(radiograph.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(radiograph, size, interpolation=how).astype(np.float32)
    low, high = np.percentile(small, [1, 99])
    stretched = np.clip((small - low) * (255 / max(1.0, high - low)), 0, 255).astype(np.uint8)
    original = cv2.cvtColor(stretched, cv2.COLOR_GRAY2BGR)
    box = [
        round((crop[side] - start) * scale)
        for side, start in (("left", left), ("top", top), ("right", left), ("bottom", top))
    ]
    colour = _WHOLE if crop["why"] == WHOLE_RADIOGRAPH else _BOX
    cv2.rectangle(original, (box[0], box[1]), (box[2] - 1, box[3] - 1), colour, 2)
    cell = np.full((CELL + _CAPTION, 2 * CELL + 4, 3), _PAPER, np.uint8)
    x, y = (CELL - size[0]) // 2, (CELL - size[1]) // 2
    cell[y : y + size[1], x : x + size[0]] = original
    shrink = cv2.INTER_AREA if framed.shape[0] > CELL else cv2.INTER_LINEAR
    cell[:CELL, CELL + 4 :] = cv2.resize(framed, (CELL, CELL), interpolation=shrink)[..., None]
    rotated = f", rotated by {crop['rotation']}" if crop["rotation"] else ""
    label = f"{years_and_months(crop['age_months'])}, {crop['sex']}"
    _write(cell, f"{_short(crop['image_id'])}: {label}", (3, CELL + 16))
    _write(cell, f"{crop['why'].partition(':')[0]}{rotated}", (3, CELL + 33))
    return cell


def _short(image_id: str) -> str:
    """Return the start of an id, in the characters that OpenCV can draw."""
    drawn = "".join(sign if " " <= sign <= "~" else "?" for sign in image_id)
    return drawn if len(drawn) <= _MAX_ID_LENGTH else f"{drawn[: _MAX_ID_LENGTH - 3]}..."


def _write(image: npt.NDArray[np.uint8], text: str, position: tuple[int, int]) -> None:
    """Write a line of text, smaller if it would not fit."""
    (width, _), _ = cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)
    scale = _FONT_SCALE * min(1.0, (image.shape[1] - 2 * position[0]) / width)
    cv2.putText(image, text, position, _FONT, scale, (_INK, _INK, _INK), 1, cv2.LINE_AA)


def _sheet(cells: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    height, width = cells[0].shape[:2]
    rows = -(-len(cells) // COLUMNS)
    columns = min(len(cells), COLUMNS)
    shape = (_HEADER + rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
    sheet = np.full(shape, _PAPER, np.uint8)
    _write(sheet, LEGEND, (_GAP, _HEADER))
    for number, cell in enumerate(cells):
        row, column = divmod(number, COLUMNS)
        top, left = _HEADER + _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[top : top + height, left : left + width] = cell
    return sheet
