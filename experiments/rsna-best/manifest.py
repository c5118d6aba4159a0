"""Join the manifests of the thumbnails and of larger radiographs of the same children.

Each child keeps its split of the thumbnails, so no child is trained on and tested on. A larger
radiograph of ID gets the image_id `large-ID`, and both have the patient_id ID. The column `source`
tells the two kinds apart.

    python experiments/rsna-best/manifest.py data/rsna.csv data/half.csv --out data/both.csv
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pandas as pd

from boneage.datasets.manifest import Manifest, read_manifest, write_manifest


def main() -> None:
    """Write the joined manifest."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("thumbnails", type=Path, help="manifest of the thumbnails, with the splits")
    parser.add_argument("larger", type=Path, help="manifest of the larger radiographs")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    options = parser.parse_args()
    thumbnails, larger = read_manifest(options.thumbnails), read_manifest(options.larger)
    split_of = thumbnails.table.set_index("image_id")["split"]
    unknown = sorted(set(larger.table["image_id"]) - set(split_of.index))
    if unknown:
        sys.exit(f"{options.thumbnails}: {len(unknown)} of the ids are missing: {unknown[:5]}")
    parts = [_part(each, options.out.parent) for each in (thumbnails, larger)]
    parts[1]["split"] = parts[1]["image_id"].map(split_of)
    parts[1]["image_id"] = "large-" + parts[1]["image_id"]
    parts[1]["source"] += "-large"
    made = write_manifest(pd.concat(parts, ignore_index=True), options.out)
    print(made.path, made.table.groupby(["source", "split"]).size().to_dict())


def _part(manifest: Manifest, folder: Path) -> pd.DataFrame:
    table = manifest.table.copy()
    table["image"] = [os.path.relpath(path, folder.resolve()) for path in manifest.image_paths()]
    if "source" not in table:
        table["source"] = "thumbnails"
    return table.assign(patient_id=table["image_id"])


if __name__ == "__main__":
    main()
