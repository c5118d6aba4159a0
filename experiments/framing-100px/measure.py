"""Does the crop hold every joint, is a turned hand put upright, and what does framing cost?

    python experiments/framing-100px/measure.py --joints JOINTS [--turned N] FOLDERS...

JOINTS holds Pascal VOC files `<id>.xml` with a box around every ossification region (Koitka et al.
2018). FOLDERS hold `<id>.png` at any depth; each is measured separately. The result is JSON, for
each folder:

- the share of its annotated radiographs that have every box inside the crop, and the crop's median
  area, as a share of the radiograph and relative to the tight rectangle around the boxes;
- with --turned, the share of N radiographs (chosen by seed 0) that were put upright, after turns by
  0, 90, 180 and 270 degrees;
- the milliseconds of one core to frame a decoded radiograph to 299 pixels. Radiographs of more than
  1,300 pixels are halved first.
"""

from __future__ import annotations

import argparse
import json
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from boneage.radiographs.framing import frame
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.recipe import Framing
from boneage.runtime.provenance import provenance

TIMED = 60
LONGEST_TIMED = 1300
FRAMING = Framing()


def tight_rectangle(path: Path) -> tuple[float, float, float, float] | None:
    """Return left, top, right, bottom around all boxes, as shares; None without a box."""
    root = ET.parse(path).getroot()
    size = [float(root.findtext(f"size/{name}", "nan")) for name in ("width", "height")]
    boxes = [
        [float(box.findtext(name, "nan")) for name in ("xmin", "ymin", "xmax", "ymax")]
        for box in root.iter("bndbox")
    ]
    if not boxes:
        return None
    corners = np.array(boxes) / [*size, *size]
    left, top = corners[:, :2].min(0)
    right, bottom = corners[:, 2:].max(0)
    return float(left), float(top), float(right), float(bottom)


def joints_inside(joints: Path, radiographs: list[Path]) -> dict[str, Any]:
    """Compare the crops with the annotated joints."""
    inside, areas, tight_areas, whole = [], [], [], 0
    for path in radiographs:
        annotation = joints / f"{path.stem}.xml"
        tight = tight_rectangle(annotation) if annotation.exists() else None
        if tight is None:
            continue
        radiograph = read_radiograph(path)
        height, width = radiograph.shape
        crop = frame(radiograph, FRAMING).crop
        whole += crop.why != "hand"
        left, top, right, bottom = np.array(crop.box) / [width, height, width, height]
        inside.append(
            left <= tight[0] and top <= tight[1] and right >= tight[2] and bottom >= tight[3]
        )
        areas.append((right - left) * (bottom - top))
        tight_areas.append((tight[2] - tight[0]) * (tight[3] - tight[1]))
    if not inside:
        return {"annotated_radiographs": 0}
    return {
        "annotated_radiographs": len(inside),
        "all_joints_inside": float(np.mean(inside)),
        "kept_whole": whole,
        "median_area": float(np.median(areas)),
        "median_tight_area": float(np.median(tight_areas)),
        "median_area_ratio": float(np.median(areas) / np.median(tight_areas)),
    }


def put_upright(radiographs: list[Path], count: int) -> dict[str, float]:
    """Return the share of turned radiographs that framing puts upright."""
    chosen = np.random.default_rng(0).permutation(len(radiographs))[:count]
    upright = dict.fromkeys((0, 90, 180, 270), 0)
    for index in chosen:
        radiograph = read_radiograph(radiographs[index])
        for turned in upright:
            rotated = np.rot90(radiograph, -turned // 90).copy()
            upright[turned] += frame(rotated, FRAMING).crop.rotation == turned
    return {str(turned): hits / len(chosen) for turned, hits in upright.items()}


def milliseconds(radiographs: list[Path]) -> dict[str, Any]:
    """Return the processor time of framing on one thread, over up to 60 radiographs."""
    times, sides = [], []
    for path in radiographs[:TIMED]:
        radiograph: Radiograph = read_radiograph(path)
        if max(radiograph.shape) > LONGEST_TIMED:
            radiograph = cv2.resize(radiograph, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        started = time.thread_time()
        frame(radiograph, FRAMING)
        sides.append(max(radiograph.shape))
        times.append(1000 * (time.thread_time() - started))
    median, late = np.percentile(times, [50, 95])
    return {
        "median": float(median),
        "percentile_95": float(late),
        "longer_side": float(np.median(sides)),
    }


def main() -> None:
    """Measure every folder on the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--joints", type=Path, required=True)
    arguments.add_argument("--turned", type=int, default=0)
    arguments.add_argument("folders", type=Path, nargs="+")
    given = arguments.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for folder in given.folders:
        radiographs = sorted(folder.rglob("*.png"))
        row = {
            "name": folder.name,
            "radiographs": len(radiographs),
            **joints_inside(given.joints, radiographs),
        }
        if given.turned:
            row["put_upright"] = put_upright(radiographs, given.turned)
        row["milliseconds"] = milliseconds(radiographs)
        rows.append(row)
    print(json.dumps({"machine": provenance(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
