"""Write the folder of a released model that the Hugging Face hub takes as it is."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boneage.errors import Fault, InputError
from boneage.evaluation.html import render
from boneage.evaluation.metrics import format_interval
from boneage.prediction.shipped import (
    CARD_NAME,
    SUMS_NAME,
    checksums,
    is_release,
    release_name,
)
from boneage.run import Run
from boneage.runtime.files import new_folder, read_json, read_text, write_text
from boneage.runtime.provenance import licence

KERAS_FILES = ("config.json", "metadata.json", "model.weights.h5")
"""What Keras reads from an address of the hub: the members of a `.keras` file."""

LICENCE_NAME = "LICENSE"
_SPLITS = ("test", "val")  # the first that was scored stands in the front matter
_RSNA_TERMS = """Terms of this model
===================

Its training radiographs are of the RSNA Pediatric Bone Age Challenge 2017. They may be used for
non-commercial research only. The same holds for this model. It is not a medical device. Do not use
its output for diagnosis.

The code of boneage, with which the model was trained, has these terms:

"""


@dataclass(frozen=True)
class _Terms:
    license: str
    name: str
    text: str


def write_hub_folder(run: Run, out: Path) -> Path:
    """Write a new folder with a released model, to be uploaded as it is.

    Keras is not needed. The folder holds the files of the release, its card with front matter and
    the licence. It also holds the members of `best.keras`, which Keras reads from the hub.

    Args:
        run: A released model.
        out: The folder to make.

    Returns:
        The folder.

    Raises:
        InputError: The run is not a released model, it has no `best.keras`, or the folder is in
            use.
    """
    if not is_release(run.folder) or not run.best_path.exists():
        what = "this is not a released model with its best.keras"
        fix = f"Make one first: boneage release {run.folder} --out released/NAME."
        raise InputError(Fault(str(run.folder), what, fix))
    name = release_name(run.folder)
    result = read_json(run.result_path)
    terms = _terms(result["manifest"]["source"])
    with new_folder(out) as folder:
        for path in run.folder.iterdir():
            if path.name not in (CARD_NAME, SUMS_NAME):
                shutil.copyfile(path, folder / path.name)
        with zipfile.ZipFile(run.best_path) as archive:
            for member in KERAS_FILES:
                (folder / member).write_bytes(archive.read(member))
        if terms:
            write_text(folder / LICENCE_NAME, terms.text)
        card = read_text(run.folder / CARD_NAME)
        write_text(folder / CARD_NAME, _hub_card(name, card, result, terms))
        write_text(folder / SUMS_NAME, checksums(folder))
    return out


def _terms(source: str) -> _Terms | None:
    """Return the terms of a model by the source of its training data; None if nobody knows."""
    if source.startswith("rsna-"):
        return _Terms("other", "non-commercial-research", _RSNA_TERMS + licence())
    return _Terms("apache-2.0", "", licence()) if source == "phantom" else None


def _hub_card(name: str, card: str, result: Mapping[str, Any], terms: _Terms | None) -> str:
    """Return the card of a release with front matter, and with how to use it from the hub."""
    scored = [split for split in _SPLITS if "mae_months" in result["metrics"].get(split, {})]
    split = scored[0] if scored else ""
    metrics = result["metrics"].get(split, {})
    score, source = metrics.get("mae_months"), result["manifest"]["source"]
    interval = format_interval(score, ".2f") if score else ""
    label = f"MAE, months; 95 % interval {interval}, n = {metrics.get('n', 0):,}"
    first = source.split(", ")[0]
    known = "RSNA Pediatric Bone Age Challenge 2017" if first.startswith("rsna-") else first
    return render(
        "hub_card.md",
        name=name,
        card=card,
        terms=terms,
        score=score,
        split=split,
        source=first,
        dataset=f"{known}, {split} split of {source}",
        label=label,
    )
