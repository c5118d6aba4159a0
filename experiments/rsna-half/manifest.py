"""Gives the radiographs of one manifest the splits that the same children have in another.

The 512-pixel radiographs are those of children that are among the 100-pixel ones too. Dealt anew, a
child tested on here would have been trained on there.

    python experiments/rsna-half/manifest.py data/half.csv data/rsna.csv --out data/half-split.csv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from boneage.datasets.manifest import read_manifest, write_manifest


def main() -> None:
    """Writes the manifest, beside the one that it is made of."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("films", type=Path, help="the manifest whose radiographs are meant")
    parser.add_argument("splits", type=Path, help="the manifest whose splits are meant")
    parser.add_argument("--out", type=Path, required=True, help="in the folder of the first one")
    options = parser.parse_args()
    folder = options.radiographs.parent
    if options.out.resolve().parent != folder.resolve():
        sys.exit(f"{options.out}: put it into {folder}, which its images are named relative to")
    table = read_manifest(options.radiographs).table
    splits = read_manifest(options.splits).table.set_index("image_id")["split"]
    unknown = table["image_id"][~table["image_id"].isin(splits.index)].tolist()
    if unknown:
        sys.exit(f"{options.splits}: {len(unknown)} of the images are not in it: {unknown[:5]}")
    table["split"] = table["image_id"].map(splits)
    made = write_manifest(table, options.out)
    print(made.path, made.table["split"].value_counts().to_dict())


if __name__ == "__main__":
    main()
