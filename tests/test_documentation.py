"""Run every command and every line of Python of README.md, on small data."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from boneage.cli import main as cli
from boneage.datasets.phantom.cohort import make_phantom_cohort
from boneage.recipe import read_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line for language, block in BLOCKS if language == "" for line in block.strip().splitlines()
]

# What the README says at its real size, and what is run here in its place.
SMALLER = {
    # The network that ships takes long to build.
    "rsna-half --data manifest.csv --init rsna-best": (
        "rsna-best-cpu --data manifest.csv --init runs/mine"
    ),
    "boneage train": "boneage train --set training.epochs=1 --set model.backbone=tiny",
    "--data DIR": (
        "--data rsna-bone-age --dry-run --set model.weights=none --set framing.size=96 "
        "--set model.backbone=mini_xception"
    ),
}


def boneage_commands() -> list[str]:
    """Every command that ends by itself."""
    return [line for line in COMMANDS if re.match("boneage (?!serve)", line)]


def make_radiographs(folder: Path) -> None:
    """Make what a reader has: radiographs, a table of ages, the Kaggle set, the recipes."""
    manifest = make_phantom_cohort(folder / "radiographs", count=60, size=96, progress=False)
    shutil.copy(
        folder / "radiographs" / "images" / "000000.png", folder / "radiographs" / "hand.png"
    )
    table = manifest.table
    ages = pd.DataFrame(
        {
            "file": "radiographs/" + table["image"],
            "age": table["age_months"] / 12,
            "sex": table["sex"].str.lower(),
        }
    )
    ages.to_csv(folder / "ages.csv", index=False)
    kaggle = folder / "rsna-bone-age" / "boneage-training-dataset" / "boneage-training-dataset"
    kaggle.mkdir(parents=True)
    for name in table["image"]:
        shutil.copy(folder / "radiographs" / name, kaggle / f"{int(Path(name).stem) + 1377}.png")
    rsna = pd.DataFrame(
        {
            "id": table["image_id"].astype(int) + 1377,
            "boneage": table["age_months"].round().astype(int),
            "male": table["sex"] == "M",
        }
    )
    rsna.to_csv(folder / "rsna-bone-age" / "boneage-training-dataset.csv", index=False)
    shutil.copytree(ROOT / "experiments", folder / "experiments")


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_the_readme_s_commands_run_in_their_order(tmp_path, monkeypatch, capsys):
    make_radiographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BONEAGE_CACHE", str(tmp_path / "cache"))
    assert len(boneage_commands()) >= 8
    for line in boneage_commands():
        for full, small in SMALLER.items():
            line = line.replace(full, small)
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        failed_gates = line.startswith("boneage stress") and ended.value.code == 1
        assert failed_gates or not ended.value.code, f"{line}\n{captured.out}\n{captured.err}"
    assert (tmp_path / "runs" / "mine" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_readme_s_server_answers_the_readme_s_request(tmp_path, serve):
    (start,) = (line for line in COMMANDS if line.startswith("boneage serve"))
    (ask,) = (line for line in COMMANDS if line.startswith("curl "))
    make_radiographs(tmp_path)
    with serve(tmp_path / "log.txt", *shlex.split(start)[2:]) as address:
        ask = ask.replace("http://127.0.0.1:8000", address)
        done = subprocess.run(
            [*shlex.split(ask), "--silent"], cwd=tmp_path, stdout=subprocess.PIPE, check=True
        )
    answer = json.loads(done.stdout)
    assert answer["status"] == "answered"
    assert answer["sex"] == "F"
    assert 0 < answer["predicted_age_months"] < 240


@pytest.mark.slow
def test_the_readme_s_python_runs_as_it_is_written():
    (main,) = (block for language, block in BLOCKS if language == "python")
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    extended = re.search(r"```python\n(class Extended.*?)```", page, re.DOTALL)[1]
    rng = np.random.default_rng(0)
    count = 40
    names = {"metadata": rng.random((count, 2), dtype=np.float32), "weights": np.ones(count)}
    for prefix in ("", "val_"):
        names[f"{prefix}images"] = rng.integers(0, 256, (count, 128, 128), dtype=np.uint8)
        names[f"{prefix}gender"] = ["F", "M"] * (count // 2)
        names[f"{prefix}age_months"] = rng.uniform(12, 200, count)
    exec(compile(main, "README.md", "exec"), names)
    assert names["model"].predict(names["validation"], verbose=0).shape == (count, 1)
    exec(compile(extended, "README.md", "exec"), names)
    assert train_on_three_inputs(names["training"]) > 0


def train_on_three_inputs(training):
    """Return the loss of a network for the inputs of the README's extended generator."""
    image = keras.Input((128, 128, 3))
    gender, extra = keras.Input((1,)), keras.Input((2,))
    features = keras.layers.GlobalAveragePooling2D()(image)
    age = keras.layers.Dense(1)(keras.layers.Concatenate()([features, gender, extra]))
    model = keras.Model([image, gender, extra], age)
    model.compile(optimizer="adam", loss="mae")
    return model.fit(training, epochs=1, verbose=0).history["loss"][0]


def test_every_make_target_and_docker_stage_named_in_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?\bmake ([a-z-]+)`|^make ([a-z-]+)$", README, flags=re.MULTILINE))
    names = {name for pair in targets for name in pair if name}
    assert {"train", "test"} <= names
    for name in names:
        assert re.search(rf"^{name}:", makefile, flags=re.MULTILINE), f"make {name}"
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for stage in re.findall(r"docker build --target (\w+)", README):
        assert re.search(rf"^FROM .* AS {stage}$", dockerfile, flags=re.MULTILINE), stage


def test_every_file_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "data/README.md", "experiments/README.md"])
def test_no_page_waits_for_a_number(page):
    assert "@@" not in (ROOT / page).read_text(encoding="utf-8")


def test_an_experiment_has_a_result_or_a_published_number_or_says_that_it_has_not_been_run():
    for recipe in (ROOT / "experiments").glob("*/recipe.toml"):
        results = list((recipe.parent / "results").glob("*seed-*.json"))
        says = "has not been run" in recipe.read_text(encoding="utf-8")
        assert results or read_recipe(recipe).published is not None or says, recipe
