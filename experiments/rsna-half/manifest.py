"""Give the radiographs of one manifest the splits that the same children have in another.

The 512-pixel radiographs and the 100-pixel ones show the same children. With a new split, children
of the old training split would be tested on.

    python experiments/rsna-half/manifest.py data/half.csv data/rsna.csv --out data/half-split.csv
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from boneage.datasets.manifest import read_manifest, write_manifest


def main() -> None:
    """Write the manifest into the folder of the first one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("manifest", type=Path, help="manifest of the radiographs")
    parser.add_argument("splits", type=Path, help="manifest with the splits")
    parser.add_argument("--out", type=Path, required=True, help="file in the folder of the first")
    options = parser.parse_args()
    folder = options.manifest.parent
    if options.out.resolve().parent != folder.resolve():
        sys.exit(f"{options.out}: write it to {folder}, because image paths are relative to it")
    table = read_manifest(options.manifest).table
    splits = read_manifest(options.splits).table.set_index("image_id")["split"]
    unknown = table["image_id"][~table["image_id"].isin(splits.index)].tolist()
    if unknown:
        sys.exit(f"{options.splits}: {len(unknown)} of the images are missing: {unknown[:5]}")
    table["split"] = table["image_id"].map(splits)
    made = write_manifest(table, options.out)
    print(made.path, made.table["split"].value_counts().to_dict())


if __name__ == "__main__":
    main()
