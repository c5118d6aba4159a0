"""Does the crop hold every joint, is a turned hand put upright, and what does framing cost?

    python experiments/framing-100px/measure.py --joints JOINTS [--turned N] FOLDERS...

JOINTS holds Pascal VOC files `<id>.xml` with a box around every ossification region (Koitka et al.
2018). FOLDERS hold `<id>.png` at any depth; each is measured separately. The result is JSON, for
each folder:

- the share of its annotated radiographs that have every box inside the crop, and the crop's median
  area, as a share of the radiograph and relative to the tight rectangle around the boxes;
- with --turned, the share of N radiographs (chosen by seed 0) that were put upright, after turns by
  0, 90, 180 and 270 degrees;
- with `--upright fine`, how many annotated radiographs were turned by other angles. Their crop is
  compared with the joints after that turn;
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
import numpy.typing as npt

from boneage.radiographs.framing import frame
from boneage.radiographs.hand_detection import find_hand, turned
from boneage.radiographs.reader import Radiograph, read_radiograph
from boneage.recipe import Framing
from boneage.runtime.provenance import provenance

TIMED = 60
LONGEST_TIMED = 1300


def joint_corners(path: Path) -> npt.NDArray[np.float64] | None:
    """Return the corners (x, y) of all boxes, as shares of the sides; None without a box."""
    root = ET.parse(path).getroot()
    size = [float(root.findtext(f"size/{name}", "nan")) for name in ("width", "height")]
    boxes = [
        [float(box.findtext(name, "nan")) for name in ("xmin", "ymin", "xmax", "ymax")]
        for box in root.iter("bndbox")
    ]
    if not boxes:
        return None
    sides = np.array(boxes)
    corners = [sides[:, [x, y]] for x in (0, 2) for y in (1, 3)]
    return np.asarray(np.concatenate(corners) / size, np.float64)


def joints_inside(joints: Path, radiographs: list[Path], framing: Framing) -> dict[str, Any]:
    """Compare the crops with the annotated joints."""
    inside, areas, tight_areas, whole, turns = [], [], [], 0, 0
    for path in radiographs:
        annotation = joints / f"{path.stem}.xml"
        shares = joint_corners(annotation) if annotation.exists() else None
        if shares is None:
            continue
        radiograph = read_radiograph(path)
        corners = shares * radiograph.shape[::-1]
        hand = find_hand(radiograph, black_corners=framing.upright == "fine")
        degrees = frame(radiograph, framing).crop.rotation
        if degrees % 90:
            slight = (degrees + 45) % 90 - 45
            radiograph, hand, matrix = turned(radiograph, hand, slight)
            corners = (corners - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
            turns += 1
        whole += not hand.is_found
        box, tight = np.array(hand.box), np.array([*corners.min(0), *corners.max(0)])
        inside.append((box[:2] <= tight[:2]).all() and (box[2:] >= tight[2:]).all())
        areas.append(np.prod(box[2:] - box[:2]) / radiograph.size)
        tight_areas.append(np.prod(tight[2:] - tight[:2]) / radiograph.size)
    if not inside:
        return {"annotated_radiographs": 0}
    found = {
        "annotated_radiographs": len(inside),
        "all_joints_inside": float(np.mean(inside)),
        "kept_whole": whole,
        "median_area": float(np.median(areas)),
        "median_tight_area": float(np.median(tight_areas)),
        "median_area_ratio": float(np.median(areas) / np.median(tight_areas)),
    }
    return found | ({"turned_finely": turns} if framing.upright == "fine" else {})


def put_upright(radiographs: list[Path], count: int, framing: Framing) -> dict[str, float]:
    """Return the share of turned radiographs that framing puts upright."""
    chosen = np.random.default_rng(0).permutation(len(radiographs))[:count]
    upright = dict.fromkeys((0, 90, 180, 270), 0)
    for index in chosen:
        radiograph = read_radiograph(radiographs[index])
        for degrees in upright:
            rotated = np.rot90(radiograph, -degrees // 90).copy()
            upright[degrees] += frame(rotated, framing).crop.rotation == degrees
    return {str(degrees): hits / len(chosen) for degrees, hits in upright.items()}


def milliseconds(radiographs: list[Path], framing: Framing) -> dict[str, Any]:
    """Return the processor time of framing on one thread, over up to 60 radiographs."""
    times, sides = [], []
    for path in radiographs[:TIMED]:
        radiograph: Radiograph = read_radiograph(path)
        if max(radiograph.shape) > LONGEST_TIMED:
            radiograph = cv2.resize(radiograph, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        started = time.thread_time()
        frame(radiograph, framing)
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
    arguments.add_argument("--upright", choices=("quarters", "fine"), default="quarters")
    given = arguments.parse_args()
    framing = Framing(upright=given.upright)
    cv2.setNumThreads(1)
    rows = []
    for folder in given.folders:
        radiographs = sorted(folder.rglob("*.png"))
        row = {
            "name": folder.name,
            "radiographs": len(radiographs),
            **joints_inside(given.joints, radiographs, framing),
        }
        if given.turned:
            row["put_upright"] = put_upright(radiographs, given.turned, framing)
        row["milliseconds"] = milliseconds(radiographs, framing)
        rows.append(row)
    print(json.dumps({"machine": provenance(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
