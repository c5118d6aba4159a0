"""Draw the figures of docs/explanation: phantoms of several ages, and the bias by age.

python docs/make_figures.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np

from boneage.datasets.phantom.cohort import draw_hand

mpl.use("agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "explanation"
AGES = (12, 48, 96, 144, 192)
SIDE = 170
SEED = 5
BANDS = {"0-60": "0–5", "60-120": "5–10", "120-180": "10–15", "180+": "15–19"}


def draw_hands() -> None:
    """Draw a girl's and a boy's phantom hand at each of some bone ages."""
    rows = []
    for sex in ("F", "M"):
        images = [draw_hand(age, sex, rng=np.random.default_rng(SEED)) for age in AGES]
        brighter = [
            cv2.convertScaleAbs(cv2.resize(each, (SIDE, SIDE)), alpha=1.6) for each in images
        ]
        for image, age in zip(brighter, AGES, strict=True):
            words = f"{'girl' if sex == 'F' else 'boy'}, {age // 12} y"
            cv2.putText(image, words, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1, cv2.LINE_AA)
        rows.append(np.hstack(brighter))
    cv2.imwrite(str(FOLDER / "hands.png"), np.vstack(rows), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def draw_bias() -> None:
    """Draw the bias of the shipped model by band of the label, and by band of the answer."""
    path = ROOT / "experiments" / "rsna-best" / "results" / "seed-0.json"
    groups = json.loads(path.read_text(encoding="utf-8"))["metrics"]["val-test"]["groups"]
    places = np.arange(len(BANDS))
    figure, axes = plt.subplots(figsize=(7, 3), dpi=100)
    axes.axhline(0, color="grey", linewidth=0.8)
    for shift, kind, colour, label in (
        (-0.1, "age_band", "#b03030", "by the label"),
        (0.1, "answer_band", "#2060a0", "by the answer"),
    ):
        bias = [groups[kind][band]["bias_months"] for band in BANDS]
        axes.errorbar(places + shift, *points(bias), fmt="o", color=colour, label=label, capsize=3)
    alone = [groups["age_band"][band]["dilution_bias_months"] for band in BANDS]
    axes.plot(places - 0.1, alone, "x", color="black", label="by the label, dilution alone")
    axes.set_xticks(places, [f"{words} years" for words in BANDS.values()])
    axes.set_ylabel("answer − label, months")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FOLDER / "regression-dilution.png", metadata={"Software": None})


def points(bias: list[dict[str, float]]) -> tuple[Any, Any]:
    """Return values and the distances to both ends of their intervals."""
    value, low, high = (np.array([each[key] for each in bias]) for key in ("value", "low", "high"))
    return value, [value - low, high - value]


if __name__ == "__main__":
    draw_hands()
    draw_bias()
