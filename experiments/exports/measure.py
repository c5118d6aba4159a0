"""How far are the answers of exported networks from those of Keras, and how large are the files?

Cost: ten minutes on two cores, most of them for the conversions.
Expected result: at most 0.001 months in every format, in batches and alone.
Command: python experiments/exports/measure.py rsna-best --data MANIFEST --out results.json

The images are 200 of the manifest, or drawn hands without one. The rate of one image at a time is
measured by `python -m experiments.throughput.benchmark inference rsna-best`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from boneage.evaluation.export import parity_images, write_network
from boneage.models.export import FORMATS, with_named_answers
from boneage.prediction.shipped import open_run
from boneage.runtime.files import temporary_folder, write_json
from boneage.runtime.provenance import file_digest, package_versions, provenance

TOOLS = ("keras", "tensorflow-cpu", "onnx", "tf2onnx", "onnxruntime", "ai-edge-litert", "openvino")


def measure(
    run: Path,
    data: Annotated[Path | None, typer.Option(help="Manifest whose images are compared.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Export RUN in every format, and compare the answers with those of Keras."""
    from boneage.models.saved import load_float32

    opened = open_run(run)
    images, gender, origin = parity_images(opened, data)
    network = with_named_answers(load_float32(opened))
    rows: dict[str, dict[str, Any]] = {}
    with temporary_folder() as folder:
        for name, chosen in FORMATS.items():
            path = folder / name / chosen.file
            path.parent.mkdir()
            storage = chosen.storages[0]
            parity = write_network(network, path, name, storage, images, gender)
            files = (each for each in path.parent.rglob("*") if each.is_file())
            size = sum(each.stat().st_size for each in files)
            rows[name] = {"weights": storage, "bytes": size, "parity": parity}
            print(name, rows[name], flush=True)
    result = {
        "model": opened.read_info()["name"],
        "digest": file_digest(opened.best_path),
        "images": {"count": len(images), "of": origin},
        "formats": rows,
        "provenance": provenance(),
        "versions": package_versions(TOOLS),
    }
    if out is not None:
        write_json(out, result)


if __name__ == "__main__":
    typer.run(measure)
