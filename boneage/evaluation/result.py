"""The result of a run: aggregates and provenance on one small page, fit to be committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boneage.files import read_json, write_json
from boneage.run import Run

_INFO = ("name", "seed", "started", "seconds", "model", "best_epoch", "epochs", "stopped")
_MANIFEST = ("digest", "counts", "source")
_SPLITS = ("val", "test")


def write_result(run: Run) -> Path:
    """Gathers `result.json` from the other files of a run: what `experiments/*/results` holds.

    It has the resolved recipe, what made the run, and the scores of the splits that have been
    evaluated. No image, id, prediction of one image or path of the machine is in it.

    Args:
        run: A finished run.

    Raises:
        InputError: A file of the run is missing or broken.
    """
    info = run.read_info()
    result: dict[str, Any] = {key: info[key] for key in _INFO if key in info}
    result["provenance"] = info["provenance"]
    result["manifest"] = {key: info["manifest"][key] for key in _MANIFEST}
    result["recipe"] = read_json(run.recipe_path)
    result["metrics"] = {
        split: _aggregates(read_json(run.metrics_path(split)))
        for split in _SPLITS
        if run.metrics_path(split).exists()
    }
    write_json(run.result_path, result)
    return run.result_path


def _aggregates(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key != "manifest"}
