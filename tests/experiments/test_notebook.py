"""The notebook: run as a kernel runs it, on Kaggle's layout in miniature.

Every cell is plain Python, without `!` and `%`. So a fresh Python that executes the cells in order
does what a kernel does, and needs no Jupyter: only what IPython displays is replaced.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from boneage.recipe import read_recipe
from boneage.run import Run

ROOT = Path(__file__).parents[2]
BOOK = json.loads((ROOT / "experiments" / "notebook" / "boneage.ipynb").read_text("utf-8"))
TEXTS = ["".join(cell["source"]) for cell in BOOK["cells"]]
CODE = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]

# What a kernel sets for its programs.
OF_A_KERNEL = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TERM": "xterm-color"}
OF_A_KERNEL |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}

KERNEL = """
import json, sys, types
shown = []
fake = types.ModuleType("IPython.display")
def picture(filename, width):
    assert open(filename, "rb").read(4) == b"\\x89PNG"
    return filename
def link(path):
    return open(path, "rb").name
fake.Image, fake.FileLink = picture, link
sys.modules |= {"IPython": types.ModuleType("IPython"), "IPython.display": fake}
names = {"__name__": "__main__", "display": shown.append}
for number, cell in enumerate(json.load(open(sys.argv[1]))):
    exec(compile(cell, f"cell {number}", "exec"), names)
print("shown", json.dumps(shown))
"""


def recipe_text() -> str:
    (cell,) = [cell for cell in CODE if "RECIPE.write_text" in cell]
    return cell.split('"""')[1]


def test_the_notebook_has_no_output_and_a_sentence_before_every_short_cell():
    assert (BOOK["nbformat"], BOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in BOOK["cells"]}) == len(BOOK["cells"])
    for before, cell in zip(BOOK["cells"], BOOK["cells"][1:], strict=False):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown"
            assert re.match(r"##? \w[^\n]*\n\n\S[^\n]*", "".join(before["source"]))
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            assert len(cell["source"]) <= 45
    assert [text for text in TEXTS if "pip install boneage" in text] == []
    for cell in CODE:
        assert not re.search(r"^\s*[!%]", cell, re.M)  # a kernel is not needed to test them


def test_its_recipe_is_the_repository_s(tmp_path):
    (tmp_path / "notebook.toml").write_text(recipe_text())
    own = read_recipe(tmp_path / "notebook.toml")
    repository = read_recipe(
        ROOT / "experiments" / "rsna-best-cpu" / "recipe.toml",
        ["name=notebook", "training.precision=float32"],
    )
    assert own == repository


@pytest.mark.slow
def test_the_notebook_runs_from_kaggle_s_files_to_an_archive(cohort, tiny_plug_in, tmp_path):
    import pandas as pd

    pytest.importorskip("tf2onnx", reason='needs the extra "export"')
    kaggle = tmp_path / "input" / "rsna-bone-age"
    radiographs = kaggle / "boneage-training-dataset" / "boneage-training-dataset"
    radiographs.mkdir(parents=True)
    table = pd.read_csv(cohort)
    for name, image in zip(table["image_id"], table["image"], strict=True):
        os.link(cohort.parent / image, radiographs / f"{name + 1377}.png")
    rsna = pd.DataFrame({"id": table["image_id"] + 1377, "boneage": table["age_months"].round()})
    rsna = rsna.assign(boneage=rsna["boneage"].astype(int), male=table["sex"] == "M")
    rsna.to_csv(kaggle / "boneage-training-dataset.csv", index=False)
    cells = json.dumps(CODE)
    for setting, small in {"EPOCHS = None": "EPOCHS = 1", "mini_resnet": tiny_plug_in}.items():
        assert cells.count(setting) == 1
        cells = cells.replace(setting, small)
    (tmp_path / "cells.json").write_text(cells)
    path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, "cells.json"],
        cwd=tmp_path, env={**os.environ, **OF_A_KERNEL, "PYTHONPATH": path, "HOME": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "boneage-notebook").glob("run-*[0-9]")
    assert Run(run).best_path.exists()
    assert re.search(r"^MAE [\d.]+ months \[[\d.]+, [\d.]+\], n = 6$", done.stdout, re.M)
    assert "90 % interval" in done.stdout
    assert "\x1b" not in done.stdout  # no progress bar, of which each state would be a line
    assert not (tmp_path / ".boneage-notebook").exists()  # installed already, so not once more
    *pictures, archive = json.loads(done.stdout.rpartition("shown ")[2])
    assert len(pictures) == 2
    with zipfile.ZipFile(tmp_path / archive) as packed:
        names = {name.partition("/")[2] for name in packed.namelist()}
    assert {"best.keras", "report.html", "onnx/model.onnx", "metrics-test.json"} <= names
