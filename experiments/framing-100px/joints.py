"""Does the crop hold every joint? Measured on films whose ossification regions were annotated.

    python experiments/framing-100px/joints.py JOINTS FILMS...

JOINTS holds Pascal VOC files `<id>.xml` (Koitka et al. 2018), FILMS are folders with `<id>.png` at
any depth, each measured by itself. The boxes are scaled from the frame in each file's <size> to the
film. Prints the aggregates as JSON: the share of films with every box inside the crop, and the
crop's median area, as a share of the film and as a multiple of that of the tight rectangle around
the boxes.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from boneage.pipeline.hand import find_hand
from boneage.pipeline.radiograph import read_radiograph
from boneage.provenance import provenance


def tight_rectangle(path: Path) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom around all boxes, in shares of the film; None without a box."""
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


def measure(joints: Path, films: Path) -> dict[str, object]:
    """The aggregates of one folder of films."""
    inside, areas, tight_areas, ratios, whole = [], [], [], [], 0
    for path in sorted(films.rglob("*.png")):
        annotation = joints / f"{path.stem}.xml"
        tight = tight_rectangle(annotation) if annotation.exists() else None
        if tight is None:
            continue
        film = read_radiograph(path)
        height, width = film.shape
        hand = find_hand(film)
        whole += not hand.found
        left, top, right, bottom = np.array(hand.box) / [width, height, width, height]
        inside.append(
            left <= tight[0] and top <= tight[1] and right >= tight[2] and bottom >= tight[3]
        )
        areas.append((right - left) * (bottom - top))
        tight_areas.append((tight[2] - tight[0]) * (tight[3] - tight[1]))
        ratios.append(areas[-1] / tight_areas[-1])
    return {
        "name": films.name,
        "films": len(inside),
        "all_joints_inside": float(np.mean(inside)),
        "films_with_a_joint_outside": int(len(inside) - np.sum(inside)),
        "kept_whole": whole,
        "median_area_of_film": float(np.median(areas)),
        "median_tight_area_of_film": float(np.median(tight_areas)),
        "median_area_ratio": float(np.median(areas) / np.median(tight_areas)),
        "median_of_ratios": float(np.median(ratios)),
    }


def main() -> None:
    """Measures every folder named on the command line."""
    joints, *folders = (Path(argument) for argument in sys.argv[1:])
    if joints.joinpath("train").is_dir():
        joints = joints / "train"
    rows = [measure(joints, folder) for folder in folders]
    print(json.dumps({"machine": provenance(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
