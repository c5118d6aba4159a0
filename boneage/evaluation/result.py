"""The result of a run: aggregates and provenance on one small page, fit to be committed."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Any

from boneage.prediction.shipped import own_folder
from boneage.run import Run
from boneage.runtime.files import read_json, write_json

_INFO = ("name", "seed", "started", "seconds", "model", "best_epoch", "epochs", "stopped")
_MANIFEST = ("digest", "counts", "source")
_INIT = ("name", "digest", "known_ids")
_SPLITS = ("val", "test")
_MOST_SOURCES, _LONGEST_SOURCE = 5, 200  # more is a name for every image or so, not a source
_FEWEST = 5  # an average over fewer images tells of single ones


def write_result(run: Run) -> Path:
    """Gathers `result.json` from the other files of a run: what `experiments/*/results` holds.

    It has the resolved recipe, what made the run, and the scores of the splits that have been
    evaluated. No image, id, prediction of one image or path of the machine is in it, and of
    fewer than five images nothing but their number.

    Args:
        run: A finished run.

    Raises:
        InputError: A file of the run is missing or broken.
    """
    run = Run(own_folder(run.folder))  # nothing is written into a released model
    info = run.read_info()
    result: dict[str, Any] = {key: info[key] for key in _INFO if key in info}
    result["provenance"] = info["provenance"]
    result["manifest"] = {key: info["manifest"][key] for key in _MANIFEST}
    result["manifest"]["source"] = _source(result["manifest"]["source"])
    if info.get("init"):  # fine-tuned: what it began with may have known these images
        result["init"] = {key: info["init"].get(key) for key in _INIT}
    result["recipe"] = without_folder(read_json(run.recipe_path))
    result["metrics"] = {
        split: aggregates(read_json(run.metrics_path(split)))
        for split in _SPLITS
        if run.metrics_path(split).exists()
    }
    write_json(run.result_path, result)
    return run.result_path


def _source(text: str) -> str:
    pieces = text.split(", ")
    if len(text) > _LONGEST_SOURCE or len(pieces) > _MOST_SOURCES:
        return "many sources"
    return ", ".join(_name(piece) if _is_absolute(piece) else piece for piece in pieces)


def without_folder(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe, JSON-ready, that names a file of weights but not where it was."""
    model = recipe.get("model", {})
    if "weights" in model:  # "none" and "imagenet" are names already
        recipe["model"] = {**model, "weights": _name(model["weights"])}
    return recipe


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or PureWindowsPath(path).is_absolute()


def _name(path: str) -> str:
    return PureWindowsPath(path).name  # takes both kinds of slash


def aggregates(metrics: dict[str, Any]) -> dict[str, Any]:
    """Scores as far as they may be published: of fewer than five images only the number."""
    if metrics["n"] < _FEWEST:
        return {"n": metrics["n"]}
    groups = {
        kind: {
            name: {"n": group["n"]} if 0 < group["n"] < _FEWEST else group
            for name, group in members.items()
        }
        for kind, members in metrics["groups"].items()
    }
    kept = {key: value for key, value in metrics.items() if key != "manifest"}
    return {**kept, "groups": groups}
