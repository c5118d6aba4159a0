"""The floors of the house: what may import what, what stays cheap, how the packaging is pinned."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from boneage.run import Run
from boneage.runtime.files import write_json, write_text

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "boneage"
LINES_IN_A_FILE = 400

# From the ground up; a module imports only from steps above its own in this list, so there can't
# be a cycle either. The numbers are the design's floors; some have several steps.
FLOORS = (
    (0, "errors", "stopping", "threads", "cpu"),
    (1, "files", "memory", "recipe", "provenance", "evaluation.metrics", "hosts"),
    # The small things that rooms of the second floor are made of.
    (2, "datasets.delimited", "datasets.folder", "datasets.pseudonyms", "datasets.disclosure"),
    (2, "shipped", "watch"),
    (2, "datasets.ossification", "datasets.phantom_film", "datasets.plugins", "run"),
    (2, "pipeline.codestream", "pipeline.exposure", "pipeline.areas", "pipeline.variation"),
    (
        2,
        "pipeline.tiff",
        "datasets.examination",
        "datasets.phantom_skeleton",
        "datasets.phantom_exposure",
    ),
    (2, "pipeline.structure", "pipeline.orientation", "pipeline.augmentation", "pipeline.child"),
    (2, "pipeline.dicom", "pipeline.inflation", "datasets.workbook", "datasets.duplicates"),
    (2, "pipeline.dicom_pixels", "datasets.dicom_film", "datasets.parquet", "datasets.ages"),
    # One radiograph, one table, one manifest.
    (2, "pipeline.radiograph", "datasets.sheet", "datasets.manifest", "datasets.image_files"),
    (2, "datasets.atlas", "datasets.archives", "datasets.transfer", "datasets.balance"),
    (2, "pipeline.hand", "datasets.quality", "datasets.rhpe_regions", "datasets.rhpe_labels"),
    (2, "datasets.dha_films", "datasets.dicom_readings", "datasets.dicom_copies"),
    (2, "datasets.rsna_tables"),
    (2, "pipeline.framing", "datasets.inspection", "datasets.rhpe_films", "datasets.dha_readings"),
    (2, "pipeline.framer", "datasets.dicom_examination", "datasets.rsna_images"),
    # The importers, the audit and the store.
    (2, "datasets.rsna", "datasets.rhpe", "datasets.dha", "datasets.table", "datasets.dicom"),
    (2, "datasets.phantom", "datasets.audit", "datasets.download", "pipeline.preparation"),
    (2, "pipeline.store"),
    (2, "pipeline.sources", "pipeline.look", "pipeline.views"),
    (2, "pipeline.batches", "pipeline.foresight"),
    (2, "pipeline.worker", "pipeline.share"),
    (2, "pipeline.workers"),
    (3, "pipeline.adapter", "backbones"),
    (3, "pipeline.generator", "model"),
    (4, "capacity", "checkpoint", "inference", "group", "objective"),
    (4, "records", "initial", "resuming"),
    (5, "training", "evaluation.scoring", "evaluation.result"),
    (6, "evaluation.figures"),
    (6, "evaluation.page"),
    (6, "evaluation.report", "evaluation.card", "evaluation.model_card"),
    (6, "release"),
    (6, "comparison", "leaderboard", "effort"),
    (6, "reproduction"),
    # Several trainings that belong together.
    (6, "series.process", "series.grid"),
    (6, "series.runs"),
    (6, "series.cross_validation", "series.sweep"),
    # Measuring everything below.
    (6, "benchmark.processes", "benchmark.setting", "benchmark.policy", "benchmark.films"),
    (6, "benchmark.feed", "benchmark.constant", "benchmark.result", "benchmark.memory_training"),
    (6, "benchmark.tutorial", "benchmark.tensorflow_data", "benchmark.torch_loader"),
    (6, "benchmark.grain_loader", "benchmark.ours", "benchmark.limit", "benchmark.contenders"),
    (6, "benchmark.contender", "benchmark.contest", "benchmark.preparing", "benchmark.memory"),
    (6, "benchmark.training", "benchmark.pipeline"),
    (6, "benchmark.inference"),
    (7, "console"),
    (7, "cli_import"),
    (7, "cli_data", "cli_bench", "cli_release", "cli_reproduce"),
    (7, "cli_series"),
    (7, "cli"),
)
STEP_OF = {f"boneage.{name}": step for step, (_, *names) in enumerate(FLOORS) for name in names}

# Only these may name Keras, anywhere in them: whatever imports one of them waits seconds for it.
KERAS_MODULES = {
    f"boneage.{n}" for n in ("pipeline.generator", "model", "inference", "training", "cpu")
}
KERAS_MODULES |= {f"boneage.benchmark.{n}" for n in ("feed", "tutorial", "tensorflow_data", "ours")}
KERAS_MODULES |= {f"boneage.benchmark.{n}" for n in ("constant", "training", "inference")}
KERAS_MODULES |= {"boneage.benchmark.memory_training", "boneage.pipeline.keras_adapter"}
KERAS_MODULES |= {f"boneage.{n}" for n in ("checkpoint", "records", "initial", "resuming")}
KERAS_MODULES |= {
    "boneage.models.backbones",
    "boneage.training.cost_estimate",
    "boneage.training.distributed.device_group",
}
KERAS_MODULES |= {"boneage.training.batch_memory", "boneage.models.losses"}
KERAS_MODULES |= {"boneage.evaluation.release"}
# Model and training code is plain Keras; tf.* is for input and export code, and for measuring it.
TENSORFLOW_MODULES = {f"boneage.benchmark.{n}" for n in ("constant", "tensorflow_data")}
TENSORFLOW_MODULES |= {"boneage.pipeline.keras_adapter"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, packages by theirs."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
ROOMS = {name: path for name, path in MODULES.items() if path.name != "__init__.py"}


def imports(path: Path, *, deferred: bool = True) -> Iterator[str]:
    """Every module that a file imports; those inside functions only when `deferred`."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        if deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def test_every_module_has_its_floor() -> None:
    assert sorted(STEP_OF) == sorted(ROOMS), "FLOORS and the files of boneage/ must name the same"
    floors = [number for number, *_ in FLOORS]
    assert floors == sorted(floors)


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_a_module_imports_only_from_lower_floors(name: str) -> None:
    ours = {found for found in imports(ROOMS[name]) if found.partition(".")[0] == "boneage"}
    # `from boneage import __version__` is the one thing to take from the package itself.
    wrong = {found for found in ours - {"boneage"} if STEP_OF[found] >= STEP_OF[name]}
    assert not wrong


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_nothing_but_the_version_is_taken_from_the_package_itself(name: str) -> None:
    tree = ast.parse(ROOMS[name].read_text(encoding="utf-8"))
    taken = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "boneage"
        for alias in node.names
        if f"boneage.{alias.name}" not in MODULES
    }
    assert taken <= {"__version__"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - set(ROOMS)))
def test_importing_a_package_imports_none_of_its_rooms(name: str) -> None:
    # The top package offers two names, each imported when it is asked for.
    imported = imports(MODULES[name], deferred=False)
    lazily = (
        {"boneage.models.builder", "boneage.pipeline.generator"} if name == "boneage" else set()
    )
    assert {found for found in imported if found.startswith("boneage")} <= lazily


@pytest.mark.parametrize("name", sorted(MODULES))
def test_keras_and_tensorflow_stay_in_their_rooms(name: str) -> None:
    used = {found.partition(".")[0] for found in imports(MODULES[name])}
    assert "keras" not in used or name in KERAS_MODULES
    assert "tensorflow" not in used or name in TENSORFLOW_MODULES


@pytest.mark.parametrize("name", sorted(set(ROOMS) - KERAS_MODULES))
def test_a_module_outside_those_rooms_does_not_import_them_at_once(name: str) -> None:
    # Inside a function it may: the verb that calls it knows that it needs Keras.
    assert not KERAS_MODULES & set(imports(ROOMS[name], deferred=False))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_file_has_at_most_400_lines(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LINES_IN_A_FILE


def test_no_room_for_leftovers() -> None:
    leftovers = {"utils", "util", "helpers", "common", "misc"}
    assert not {path for path in MODULES.values() if path.stem in leftovers}


# --- What stays fast, run as a user runs it.


def run_verb(folder: Path, *arguments: str | Path) -> tuple[str, set[str]]:
    """Runs one command in a process of its own; gives its output and what it has imported."""
    script = """
import atexit, pathlib, sys
import boneage.cli.main
listing = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: listing.write_text(" ".join(sys.modules)))
boneage.cli.main.main()
"""
    listing = folder / "modules.txt"
    command = [sys.executable, "-c", script, str(listing), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(listing.read_text().split())


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    output, loaded = run_verb(tmp_path, "--help")
    assert "train" in output
    slow = {"tensorflow", "keras", "albumentations", "cv2", "matplotlib", "numpy", "pandas"}
    assert not slow & loaded


def test_data_check_imports_no_keras(tmp_path: Path) -> None:
    cohort = tmp_path / "cohort"
    _, drawing = run_verb(tmp_path, "data", "phantom", cohort, "--count", "10", "--size", "64")
    _, checking = run_verb(tmp_path, "data", "check", cohort / "manifest.csv")
    assert not {"tensorflow", "keras"} & (drawing | checking)


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
    write_json(run.info_path, {"name": "by-hand"})
    run.best_path.touch()
    _, loaded = run_verb(tmp_path, "report", run.folder)
    assert run.report_path.exists()
    assert not {"tensorflow", "keras"} & loaded


# --- What is installed.

LOCKS = ("requirements.lock", "requirements-gpu.lock")


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
    assert len(requirements) > 50
    for requirement in requirements:
        assert re.match(
            r"[a-z0-9.-]+==\S+( ; .+)? \\\n( +--hash=sha256:[0-9a-f]{64}( \\)?\n?)+$", requirement
        )


@pytest.mark.parametrize("file", ["pyproject.toml", "Makefile", "Dockerfile", ".ci/run"])
def test_no_file_of_the_packaging_names_an_index(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(r"://|(?<!--no-emit-)index-url|extra-index|trusted-host", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_the_locks_satisfy_what_pyproject_asks_for(lock: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"]]
    if lock == "requirements-gpu.lock":
        wanted += [*extras["gpu"], *extras["jax-gpu"], *extras["tensorboard"]]
    pinned = locked(lock)
    if lock == "requirements.lock":  # the same module at a third of the size, on Linux x86_64
        assert pinned["tensorflow-cpu"] == pinned["tensorflow"]
    for requirement in map(Requirement, wanted):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions
        assert all(requirement.specifier.contains(version) for version in versions)


def test_both_locks_pin_the_same_versions_of_what_both_have() -> None:
    cpu, gpu = map(locked, LOCKS)
    assert {name: cpu[name] for name in cpu.keys() & gpu.keys()} == {
        name: gpu[name] for name in cpu.keys() & gpu.keys()
    }
