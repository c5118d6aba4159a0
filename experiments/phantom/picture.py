"""Draw the picture of README.md: test phantoms of a finished run, each with its predicted age.

    python experiments/phantom/picture.py RUN --out experiments/phantom/predictions.png

RUN is the run folder that `make train` writes. The picture shows the test images whose drawn ages
are nearest to 5, 10 and 15 years, whatever their error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd

from boneage.datasets.manifest import read_manifest
from boneage.radiographs.reader import read_radiograph
from boneage.run import Run

AGES_MONTHS = (60, 120, 180)
SEX = {"F": "girl", "M": "boy"}


def draw(folder: Path, out: Path) -> None:
    """Write the picture of a run.

    Args:
        folder: A run folder with `predictions-test.csv`, and its manifest still in place.
        out: PNG file to write.
    """
    run = Run(folder)
    manifest = read_manifest(Path(run.read_info()["manifest"]["path"]))
    paths = dict(zip(manifest.table["image_id"], manifest.image_paths(), strict=True))
    answers = pd.read_csv(run.predictions_path("test"), dtype={"image_id": str})
    rows = [(answers["age_months"] - age).abs().idxmin() for age in AGES_MONTHS]

    mpl.rcParams["font.size"] = 10
    figure, axes = plt.subplots(1, len(rows), figsize=(7.5, 3.0), layout="constrained")
    for axis, row in zip(axes, rows, strict=True):
        answer = answers.loc[row]
        axis.imshow(read_radiograph(paths[answer["image_id"]]), cmap="gray")
        axis.set(xticks=[], yticks=[])
        axis.set_title(
            f"{SEX[answer['sex']]}, drawn as {answer['age_months']:.0f} months\n"
            f"predicted: {answer['predicted_age_months']:.0f} months"
        )
    figure.savefig(out, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="run folder of the phantom recipe")
    parser.add_argument("--out", type=Path, default=Path("experiments/phantom/predictions.png"))
    arguments = parser.parse_args()
    draw(arguments.run, arguments.out)
