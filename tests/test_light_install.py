"""What `pip install boneage` brings without an extra: the wheel, its predictions, its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement

from boneage.datasets.phantom.cohort import draw_hand
from boneage.runtime.extras import EXTRA_OF

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULE_OF = {"python-gdcm": "gdcm"}  # else a module has the name of its package
# Each needs packages of [train]. Only the files of `predict` exist.
HEAVY_VERBS = (
    "train phantom",
    "train --resume run",
    "evaluate rsna-best --data absent.csv",
    "evaluate --predictions absent.csv",
    "report run",
    "stress rsna-best --data absent.csv",
    "compare absent.csv other.csv",
    "reproduce phantom --data absent.csv",
    "cross-validate phantom --data absent.csv --out x",
    "sweep phantom --data absent.csv --out x",
    "release run --out x",
    "data phantom x",
    "data check absent.csv",
    "data card absent.csv --out x.html",
    "data contact-sheet absent.csv --out x",
    "data import rsna absent",
    "data download rsna x",
    "predict rsna-best --table t.xlsx",
    "predict rsna-best --table t.csv --out answers.parquet",
)

WITHOUT_EXTRAS = f"""
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {set(EXTRA_OF)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
"""


def test_every_package_of_an_extra_has_its_extra_in_the_messages() -> None:
    extras = PROJECT["optional-dependencies"]
    found = {}
    for extra in ("train", "dicom", "export", "serve", "jax", "tensorboard"):
        for name in (Requirement(line).name for line in extras[extra]):
            if name != "boneage":
                found[MODULE_OF.get(name, name.replace("-", "_"))] = extra
    come_with_others = dict.fromkeys(("multipart", "starlette"), "serve")
    assert found | come_with_others == EXTRA_OF


@pytest.mark.slow
def test_without_the_extra_a_verb_says_what_to_install(
    tmp_path: Path, run_together: Callable[..., list[tuple[int, str, list[str]]]]
) -> None:
    (tmp_path / "t.csv").write_text("image,sex\nhand.png,F\n")
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04")
    lines = [line.split() for line in HEAVY_VERBS]
    found = run_together(lines, tmp_path, before=WITHOUT_EXTRAS, PYTHONPATH=str(ROOT))
    for line, (code, text, _) in zip(HEAVY_VERBS, found, strict=True):
        assert code == 2, line
        assert text.startswith("error: "), line
        assert "is not installed. " in text, line
        assert text.removesuffix(".\n").rstrip().endswith('pip install "boneage[train]"'), line
        assert text.count("\n") == 1, line


def needed(name: str, seen: set[str]) -> Iterator[Distribution]:
    """The installed distribution of a name, and all that it needs without an extra."""
    if name in seen:
        return
    seen.add(name)
    found = distribution(name)
    yield found
    for requirement in map(Requirement, found.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from needed(requirement.name, seen)


@pytest.mark.slow
def test_the_wheel_predicts_where_nothing_but_the_core_is_installed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 40e6

    venv.create(tmp_path / "empty", symlinks=True)
    python = next((tmp_path / "empty").glob("bin/python"))
    (site,) = (tmp_path / "empty").glob("lib/python*/site-packages")
    pip = ["-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([sys.executable, *pip, "--no-compile", wheel], check=True)
    seen: set[str] = set()
    for name in (Requirement(line).name for line in PROJECT["dependencies"]):
        for package in needed(name, seen):
            for entry in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
                if not (site / entry).exists():
                    (site / entry).symlink_to(Path(str(package.locate_file(entry))))

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name(program)), *arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    absent = "keras", "tensorflow", "pandas", "albumentations", "matplotlib", "scipy", "filelock"
    code = f"import importlib.util as i; print([n for n in {absent} if i.find_spec(n)])"
    assert run("python", "-c", code).stdout == "[]\n"

    hand = draw_hand(120, "F", rng=np.random.default_rng(0), size=256)
    cv2.imwrite(str(tmp_path / "hand.png"), hand)
    (tmp_path / "t.csv").write_text("image,sex\nhand.png,F\nhand.png,M\n")
    done = run("boneage", "predict", "rsna-best", "--table", "t.csv", "--out", "answers.jsonl")
    assert done.returncode == 0, done.stderr
    first, second = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert json.loads(first)["status"] == json.loads(second)["status"] == "answered"

    done = run("boneage", "train", "phantom")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'To install it: pip install "boneage[train]"' in done.stderr
    code = "print(boneage.load('rsna-best').predict('hand.png', sex='F').months)"
    done = run("python", "-c", f"import boneage; {code}; from boneage import DataGenerator")
    assert 0 < float(done.stdout) < 240
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: boneage.DataGenerator: ")
    assert 'To install it: pip install "boneage[train]"' in done.stderr

    done = run("boneage", "doctor", "--json")
    assert done.returncode == 0, done.stdout
    found = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    assert "this installation answers" in found["backend"]["found"]
    assert 'pip install "boneage[train]"' in found["backend"]["found"]
    assert not {"device", "bfloat16"} & found.keys()
