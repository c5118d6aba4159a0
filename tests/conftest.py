"""What every test runs under."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from boneage.run import Run

# Read by TensorFlow when it is first imported: its greeting would drown the tests' own output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The same examples on every machine and every day, however slow the machine is; nothing on disk.
settings.register_profile("same-everywhere", derandomize=True, deadline=None, database=None)
settings.load_profile("same-everywhere")

TINY_RECIPE = """
name = "tiny"
seed = 3

[framing]
size = 64

[model]
backbone = "mini_xception"
dense_units = [16]

[training]
epochs = 2
batch_size = 16
learning_rate = 1e-3
"""


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 60 small phantom films. Read only: a test that spoils one copies it first."""
    from boneage.datasets.phantom import make_phantom_cohort

    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    return make_phantom_cohort(folder, count=60, seed=0, size=96, progress=False).path


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in seconds, and learns nothing to speak of."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def finished_run(cohort: Path, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run, trained and evaluated on validation and test. Read only."""
    from boneage.datasets.manifest import read_manifest
    from boneage.evaluation.scoring import evaluate_run
    from boneage.recipe import read_recipe
    from boneage.training import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run = train(read_recipe(tiny_recipe), read_manifest(cohort), folder, progress=False)
    for split in ("val", "test"):
        evaluate_run(run, split=split, progress=False)
    return run
