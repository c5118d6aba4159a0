"""Who may import whom, what must stay fast, and how the packages are pinned."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from boneage.datasets.phantom.cohort import draw_hand
from boneage.run import Run
from boneage.runtime.extras import EXTRA_OF
from boneage.runtime.files import write_json, write_text

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "boneage"
# Who may import whom, from the ground up: a module imports from its own folder, and from
# the folders and modules that its row names. A row names only rows above it: no cycle.
MAY_IMPORT = {
    "errors": "",
    "runtime": "errors",
    "recipe": "runtime errors",
    "run": "recipe runtime errors",
    "radiographs": "recipe runtime errors",
    "models": "run recipe runtime errors",
    "datasets": "radiographs runtime errors",
    "prediction": "models.saved radiographs run recipe runtime errors",
    "pipeline": "datasets.manifest datasets.label_rules radiographs recipe runtime errors",
    "evaluation": "prediction pipeline datasets models radiographs run recipe runtime errors",
    "training": "evaluation prediction pipeline datasets models radiographs "
    "run recipe runtime errors",
    "serving": "prediction radiographs run recipe runtime errors",
    "cli": "serving training evaluation prediction pipeline datasets models radiographs "
    "run recipe runtime errors",
    "__main__": "cli",
}
# What still has to be straightened out: (module, what it imports all the same).
EXCEPTIONS: set[tuple[str, str]] = set()

KERAS_AT_ONCE = ("pipeline.generator", "pipeline.keras_adapter", "models", "training")
KERAS_IN = (*KERAS_AT_ONCE, "prediction.engines", "evaluation.release", "evaluation.export")
# The light half answers without these, so neither it nor what it imports may import them.
LIGHT = ("errors", "recipe", "runtime", "run", "radiographs", "prediction")
HEAVY = {*EXTRA_OF} - {"gdcm", "highdicom"}
LATE = {"boneage.run": {"filelock"}, "boneage.prediction.engines": {"keras"}}  # in a function


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, packages by theirs."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
ROOMS = {name: path for name, path in MODULES.items() if path.name != "__init__.py"}


parsed = cache(lambda path: ast.parse(path.read_text(encoding="utf-8")))


@cache
def imports(path: Path, *, deferred: bool = True) -> list[str]:
    """Every module that a file imports; those inside functions only when `deferred`."""
    return list(find_imports(path, deferred=deferred))


def find_imports(path: Path, *, deferred: bool) -> Iterator[str]:
    waiting: list[ast.AST] = [parsed(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not deferred:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        if deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def folder_of(name: str) -> str:
    """The folder or module below `boneage` that a module belongs to; `boneage` itself for none."""
    return name.split(".")[1] if "." in name else name


def lies_in(name: str, places: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"boneage.{place}.") for place in places)


def excepted(name: str) -> set[str]:
    return {found for module, found in EXCEPTIONS if module == name}


def test_the_table_and_the_package_name_the_same_folders() -> None:
    assert set(MAY_IMPORT) == {folder_of(name) for name in MODULES} - {"boneage"}
    order = list(MAY_IMPORT)
    for folder, allowed in MAY_IMPORT.items():
        for other in allowed.split():
            assert order.index(folder_of(f"boneage.{other}")) < order.index(folder), "a cycle"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"boneage"}))
def test_a_module_imports_only_from_folders_that_its_own_may(name: str) -> None:
    own = folder_of(name)
    allowed = (own, *MAY_IMPORT[own].split())
    ours = {found for found in imports(MODULES[name]) if found.startswith("boneage.")}
    wrong = {
        found
        for found in ours
        if not any(f"{found}.".startswith(f"boneage.{folder}.") for folder in allowed)
    }
    assert not wrong - excepted(name)


def test_no_modules_import_each_other() -> None:
    imported = {
        name: {found for found in imports(path) if found in MODULES and found != "boneage"}
        for name, path in MODULES.items()
        if name != "boneage"
    }
    TopologicalSorter(imported).prepare()  # raises CycleError


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_but_the_version_is_taken_from_the_package_itself(name: str) -> None:
    tree = parsed(MODULES[name])
    taken = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "boneage"
        for alias in node.names
        if f"boneage.{alias.name}" not in MODULES
    }
    assert taken <= {"__version__"}


@pytest.mark.parametrize(
    "name", sorted(n for n, path in MODULES.items() if path.stem == "__init__")
)
def test_importing_a_folder_imports_none_of_its_modules(name: str) -> None:
    imported = imports(MODULES[name], deferred=False)
    assert not {found for found in imported if found.startswith("boneage")}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"boneage"}))
def test_slow_packages_stay_where_they_are_needed(name: str) -> None:
    def packages(*, deferred: bool) -> set[str]:
        found = {used.partition(".")[0] for used in imports(MODULES[name], deferred=deferred)}
        return found - excepted(name)

    if not lies_in(name, KERAS_IN):
        assert "keras" not in packages(deferred=True)
    if not lies_in(name, KERAS_AT_ONCE):
        assert "keras" not in packages(deferred=False)
    if folder_of(name) in LIGHT:
        assert not HEAVY & packages(deferred=True) - LATE.get(name, set())
        assert not HEAVY & packages(deferred=False)
    if name != "boneage.pipeline.keras_adapter":
        assert "tensorflow" not in packages(deferred=True)
    if name != "boneage.runtime.onnx":  # which switches its telemetry off
        assert "onnxruntime" not in packages(deferred=True)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_private_parts_of_keras_and_jax_are_used_in_one_module_each(name: str) -> None:
    private = {".".join(found.split(".")[:2]) for found in imports(MODULES[name])}
    if name != "boneage.pipeline.keras_adapter":
        assert "keras.src" not in private
    assert "jax._src" not in private - excepted(name)


def test_no_room_for_leftovers() -> None:
    leftovers = {"utils", "util", "helpers", "common", "misc"}
    assert not {path for path in MODULES.values() if path.stem in leftovers}


# --- What stays fast, run as a user runs it.


def run_verb(folder: Path, *arguments: str | Path) -> tuple[str, set[str]]:
    """Runs one command in a process of its own; gives its output and what it has imported."""
    script = """
import atexit, pathlib, sys
from boneage.cli.main import main
listing = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: listing.write_text(" ".join(sys.modules)))
main()
"""
    listing = folder / "modules.txt"
    command = [sys.executable, "-c", script, str(listing), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(listing.read_text().split())


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    output, loaded = run_verb(tmp_path, "--help")
    assert "train" in output
    assert not {*EXTRA_OF, "cv2", "numpy", "onnxruntime"} & loaded


def test_predict_imports_nothing_of_the_extras(tmp_path: Path) -> None:
    hand = draw_hand(120, "F", rng=np.random.default_rng(0), size=256)
    cv2.imwrite(str(tmp_path / "hand.png"), hand)
    output, loaded = run_verb(tmp_path, "predict", "rsna-best", tmp_path / "hand.png", "--sex", "F")
    assert "months" in output
    assert EXTRA_OF.keys() & loaded <= {"defusedxml"}  # Pillow 11 imports it where it is installed


@pytest.mark.slow
def test_data_check_imports_no_keras(tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    _, drawing = run_verb(tmp_path, "data", "phantom", cohort, "--count", "10", "--size", "64")
    _, checking = run_verb(tmp_path, "data", "check", cohort / "manifest.csv")
    assert not {"tensorflow", "keras"} & (drawing | checking)


FAULTS = (  # arguments, and a part of the message
    ("predict rsna-best absent.png --sex F", "absent.png: there is no such file"),
    ("predict rsna-best blank.png --sex F", "every pixel is 0"),
    ("predict rsna-bst absent.png --sex F", "Did you mean 'rsna-best'?"),
    ("predict rsna-best absent.png --sex x", "--sex x"),
    ("predict rsna-best absent.png --sex F --views 3", "Choose one of 1, 2, 6"),
    ("predict rsna-best absent.png --sex F --phases 3", "Choose 1 or 4"),
    ("predict rsna-best absent.png --sex F --run full", "this is not a finished run"),
    ("train", "the recipe is missing"),
    ("train rsna-bst", "Did you mean 'rsna-best'?"),
    ("train rsna-best", "--data MANIFEST"),
    ("train rsna-best --data absent.csv", "absent.csv: there is no such file"),
    ("train rsna-best --data blank.png", "blank.png"),
    ("train phantom --out full", "full: the folder is not empty"),
    ("train phantom --out full/x/y", "full/x/y"),
    ("train phantom --out blank.png/run", "no file can be written to this folder"),
    ("train phantom --set training.epoch=3", "Did you mean 'epochs'?"),
    ("train phantom --set model.backbone=resnet", "'resnet' is not known"),
    ("train phantom --set model.weights=absent.h5", "this file does not exist"),
    ("train phantom --set model.weights=imagenet", "no ImageNet weights"),
    ("train phantom --init absent", "absent: there is no such folder"),
    ("train phantom --init rsna-best", "the run has another network"),
    ("train --resume full", "no run.json"),
    ("train --resume full --out x", "can't be combined"),
    ("train phantom --hosts a:1,b:2 --out x", "--rank is missing"),
    ("evaluate", "RUN or --predictions FILE"),
    ("evaluate full", "this is not a finished run"),
    ("evaluate rsna-best", "--data MANIFEST"),
    ("evaluate rsna-best --data absent.csv", "absent.csv: there is no such file"),
    ("evaluate rsna-best --data manifest.csv --run rsna-best --out x", "the run is named twice"),
    ("evaluate --predictions absent.csv", "absent.csv: there is no such file"),
    ("evaluate rsna-best --data manifest.csv --views 3", "Choose one of 1, 2, 6"),
    ("evaluate rsna-best --data manifest.csv --split all", "unknown split 'all'"),
    ("stress full", "this is not a finished run"),
    ("stress rsna-best", "--data MANIFEST"),
    ("stress rsna-best --data absent.csv", "absent.csv: there is no such file"),
    ("stress rsna-best --data manifest.csv --views 3", "Choose one of 1, 2, 6"),
    ("calibrate rsna-best --out c.json", "Missing option '--data'"),
    ("calibrate rsna-best --data absent.csv --out c.json", "absent.csv: there is no such file"),
    ("calibrate rsna-best --data manifest.csv --out c.json", "there are 2 children"),
    ("predict rsna-best blank.png --sex F --calibration absent.json", "absent.json: there is no"),
    ("report full", "full"),
    ("release full --out x", "this is not a finished run"),
    ("release rsna-best --out full", "full: it exists already"),
    ("export full", "this is not a finished run"),
    ("export rsna-best --out full", "full: it exists already"),
    ("export rsna-best --format torch", "Choose one of onnx"),
    ("reproduce rsna-xceptoin --data absent", "Did you mean 'rsna-xception'?"),
    ("reproduce rsna-xception --data absent --set model.weights=none", "absent"),
    ("reproduce rsna-xception --data absent --out full", "full: the folder holds something else"),
    ("reproduce phantom --data absent", "no [published] section"),
    ("cross-validate phantom --data absent.csv --out x", "absent.csv"),
    ("cross-validate phantom --data absent.csv --out x --set model.backbone=y", "'y' is not known"),
    ("sweep phantom --data absent.csv --out x", "absent.csv"),
    ("sweep phantom --data x --out x --grid model.backbone=y,z", "'y' is not known"),
    ("data card absent.csv --out blank.png/card.html", "no file can be written to this folder"),
    ("data import rsna absent --out blank.png/m.csv", "no file can be written to this folder"),
    ("data contact-sheet manifest.csv --out blank.png/x", "no file can be written to this folder"),
    ("data prepare absent.csv --recipe rsna-bst", "Did you mean 'rsna-best'?"),
)


@pytest.mark.slow
def test_what_can_be_checked_without_keras_is_checked_before_it(
    tmp_path: Path, run_together: Callable[..., list[tuple[int, str, list[str]]]]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    cv2.imwrite(str(tmp_path / "blank.png"), np.zeros((64, 64), np.uint8))
    rows = "image_id,image,age_months,sex,split\na,blank.png,30,F,test\nb,blank.png,99,M,test\n"
    (tmp_path / "manifest.csv").write_text(rows)
    lines = [line.split() for line, _ in FAULTS]
    found = run_together(lines, tmp_path, PYTHONPATH=str(ROOT), KERAS_HOME=str(tmp_path))
    for (line, message), (code, text, loaded) in zip(FAULTS, found, strict=True):
        assert code == (3 if "every pixel" in message else 2), line
        assert message in text, line
        assert "Traceback" not in text, line
        assert not loaded, line
    assert {path.name for path in tmp_path.iterdir()} == {"full", "blank.png", "manifest.csv"}


@pytest.mark.slow
def test_scoring_predictions_and_reporting_import_no_keras(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    age = np.arange(12.0, 212.0, 10.0)
    table = pd.DataFrame(
        {
            "image_id": [str(number) for number in range(len(age))],
            "age_months": age,
            "sex": ["F", "M"] * (len(age) // 2),
            "predicted_age_months": age + np.resize([4.0, -3.0, 1.0], len(age)),
        }
    )
    write_text(run.predictions_path("test"), table.to_csv(index=False))
    scores = ("evaluate", "--predictions", run.predictions_path("test"), "--json")
    output, loaded = run_verb(tmp_path, *scores)
    assert not {"tensorflow", "keras"} & loaded

    write_json(run.metrics_path("test"), json.loads(output))
    write_json(run.recipe_path, {"name": "by-hand"})
    write_json(run.info_path, {"name": "by-hand", "manifest": {"source": "table"}})
    run.best_path.touch()
    _, loaded = run_verb(tmp_path, "report", run.folder)
    assert run.report_path.exists()
    assert not {"tensorflow", "keras"} & loaded


# --- What is installed.

LOCKS = {  # the extras of each
    "requirements.lock": ("dev", "train", "serve", "dicom", "export"),
    "locks/serve.lock": ("serve", "dicom"),
    "locks/cpu.lock": ("train", "serve", "dicom", "export"),
    "locks/gpu.lock": ("train", "gpu", "serve", "dicom", "export", "tensorboard"),
    "locks/gpu-jax.lock": ("train", "jax-gpu", "serve", "dicom"),
}
LEFT_OUT = {  # of these extras
    "locks/cpu.lock": {"openvino", "ai-edge-litert", "libclang"},
    "locks/gpu.lock": {"openvino", "ai-edge-litert", "libclang"},
    "locks/gpu-jax.lock": {"tensorflow"},
}
OF_IMAGES = tuple(LOCKS)[1:]


def locked(lock: str) -> dict[str, list[str]]:
    """The versions a lock pins, by name; more than one only where a marker chooses."""
    versions: dict[str, list[str]] = {}
    for pin in re.findall(r"^(\S+==\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE):
        name, _, version = pin.partition("==")
        versions.setdefault(name, []).append(version)
    return versions


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_requirement_with_hashes_and_names_no_index(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|index|find-links|@ |/work|/tmp|/dev|file:", text)  # no address
    requirements = re.split(r"\n(?=[a-z0-9])", text.partition("make lock\n")[2])
    assert len(requirements) > 30
    for requirement in requirements:
        assert re.match(
            r"[a-z0-9.-]+==\S+( ; .+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+$", requirement
        )


@pytest.mark.parametrize("file", ["pyproject.toml", "Makefile", "Dockerfile", ".ci/run"])
def test_no_file_of_the_packaging_names_an_index(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(r"://|(?<!--no-emit-)index-url|extra-index|trusted-host", text)


@pytest.mark.parametrize(("lock", "names"), LOCKS.items())
def test_the_locks_satisfy_what_pyproject_asks_for(lock: str, names: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in names for line in extras[name])]
    pinned = locked(lock)
    if "tensorflow-cpu" in pinned:  # the same module at a third of the size, on Linux x86_64
        assert pinned["tensorflow-cpu"] == pinned["tensorflow"]
    absent = LEFT_OUT.get(lock, set())
    assert not absent & pinned.keys()
    for requirement in map(Requirement, set(wanted) - {"boneage[train]"}):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions or requirement.name in absent
        assert all(requirement.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("lock", [*OF_IMAGES, "locks/build.lock"])
def test_an_image_has_the_versions_that_the_tests_ran_with(lock: str) -> None:
    tested, shipped = locked("requirements.lock"), locked(lock)
    newest = {"jax", "jaxlib"} if lock == "locks/gpu-jax.lock" else set()
    both = (tested.keys() & shipped.keys()) - newest
    assert {name: tested[name] for name in both} == {name: shipped[name] for name in both}


@pytest.mark.parametrize("lock", OF_IMAGES)
def test_an_image_has_no_tools_for_tests(lock: str) -> None:
    tools = {"pytest", "ruff", "mypy", "selenium", "scikit-learn", "zensical"}
    assert not tools & set(locked(lock))
