"""What every test runs under."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from boneage.run import Run

# Read by TensorFlow when it is first imported: its greeting would drown the tests' own output, and
# what is trained here must be, to the bit, what the command line trains.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# The same examples on every machine and every day, however slow the machine is; nothing on disk.
settings.register_profile("same-everywhere", derandomize=True, deadline=None, database=None)
settings.load_profile("same-everywhere")

# Threads, because every training would start two Pythons; tests of the processes say so.
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
use_multiprocessing = false
"""

# A fifth of the weights to trace: for what depends on how a training goes, not on its network.
TINY_BACKBONE = """
from keras import Model, layers

def tiny(image_size):
    x = image = layers.Input((image_size, image_size, 1))
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, 4, use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return Model(image, x, name="tiny")
"""
TINY_NETWORK = f"""
from boneage.models.backbones import BACKBONES, Backbone
{TINY_BACKBONE}
BACKBONES["tiny"] = Backbone(tiny)
"""


@pytest.fixture
def tiny_convnext(monkeypatch: pytest.MonkeyPatch) -> object:
    """A ConvNeXt that is built in a moment, known here as the backbone `tiny_convnext`."""
    from keras.src.applications.convnext import ConvNeXt

    from boneage.models.backbones import BACKBONES, Backbone

    def build(image_size: int) -> object:
        shape = {"input_shape": (image_size, image_size, 3), "include_preprocessing": False}
        sizes = {"depths": [1, 1, 2, 1], "projection_dims": [8, 8, 16, 16]}
        return ConvNeXt(**sizes, **shape, include_top=False)

    backbone = Backbone(build, range="imagenet", branch_end="_identity")
    monkeypatch.setitem(BACKBONES, "tiny_convnext", backbone)
    return backbone


ONE_AFTER_ANOTHER = """
import contextlib, io, json, sys
from boneage.cli.main import main
found = []
for line in json.loads(sys.argv[1]):
    sys.argv = ["boneage", *line]
    with contextlib.redirect_stderr(io.StringIO()) as text, contextlib.redirect_stdout(text):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    found.append((code, text.getvalue(), sorted({"keras", "tensorflow"} & set(sys.modules))))
print(json.dumps(found))
"""


# What takes longest begins first: no core idles at the end, and one process has the whole file, so
# that what its tests share is made once.
LONGEST = ("test_documentation.py", "test_distributed.py", "test_resume.py", "test_page.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the finished run as slow, and sort: the longest files first."""
    for item in items:
        if "finished_run" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture(scope="session")
def tiny_network() -> str:
    """Makes the backbone `tiny` known here; returns what makes it known in another process."""
    exec(TINY_NETWORK, {})
    return TINY_NETWORK


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 60 small phantoms. Read only: a test that changes one copies it first."""
    from boneage.datasets.phantom.cohort import make_phantom_cohort

    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    return make_phantom_cohort(folder, count=60, seed=0, size=96, progress=False).path


@pytest.fixture
def cohort_copy(cohort: Path, tmp_path: Path) -> Path:
    """A manifest of the phantoms that a test may spoil."""
    folder = tmp_path / "mine"
    shutil.copytree(cohort.parent, folder, ignore=shutil.ignore_patterns("*.store"))
    return folder / cohort.name


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in seconds, and learns nothing to speak of."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def finished_run(
    cohort: Path, tiny_recipe: Path, tiny_network: str, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run, trained and evaluated on validation and test. Read only."""
    from boneage.datasets.manifest import read_manifest
    from boneage.evaluation.scoring import evaluate_run
    from boneage.recipe import read_recipe
    from boneage.training.trainer import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    recipe = read_recipe(tiny_recipe, ["model.backbone=tiny"])
    run = train(recipe, read_manifest(cohort), folder, progress=False)
    for split in ("val", "test"):
        evaluate_run(run, split=split, progress=False)
    return run


@pytest.fixture(scope="session")
def stress_result() -> dict[str, object]:
    """What `stress-test.json` holds, of two changes: one that passes its gate, one refused."""
    shift = {"value": 0.1, "low": -0.2, "high": 0.4}
    found = {"name": "mirrored", "n": 9, "refused": 1, "shift_months": shift, "gate": 0.5}
    found |= {"mae_difference_months": {"value": -0.3, "low": -0.6, "high": 0.1}, "passed": True}
    found |= {"mean_absolute_shift_months": 0.3, "refusal_passes": False}
    none = dict.fromkeys(("value", "low", "high"))
    refused = {**found, "name": "inverted", "refused": 9, "refusal_passes": True}
    refused |= {"shift_months": none, "mae_difference_months": none}
    refused |= {"mean_absolute_shift_months": None}
    size = {"median_size_pixels": [384, 512], "refused_unchanged": 2}
    size |= {"manifest": {"file": "clinic.csv", "digest": "a" * 64}, "file": "stress-test.json"}
    return {"n": 9, "split": "test", "views": 1, "phases": 1, **size, "changes": [found, refused]}


@pytest.fixture
def boneage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run a command here, in an empty folder: (exit code, standard output, standard error)."""
    from boneage.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BONEAGE_RUNS", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["boneage", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def trains_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A series' real trainings in this process, where Keras has been imported."""
    from boneage.cli.main import main
    from boneage.training.series.command_process import CommandRunner

    def run(self: object, arguments: Sequence[str], *, to_stderr: bool = False) -> int:
        monkeypatch.setattr(sys, "argv", ["boneage", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    monkeypatch.setattr(CommandRunner, "run", run)


@pytest.fixture(scope="session")
def run_together() -> Callable[..., list[tuple[int, str, list[str]]]]:
    """Run commands one after another in one process: exit code, output, and Keras if imported."""

    def run(
        lines: Sequence[Sequence[str]], folder: Path, *, before: str = "", **environment: str
    ) -> list[tuple[int, str, list[str]]]:
        done = subprocess.run(
            [sys.executable, "-c", before + ONE_AFTER_ANOTHER, json.dumps(lines)],
            cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [tuple(each) for each in json.loads(done.stdout)]

    return run


READY_SECONDS = 120.0  # an idle machine needs 3, one that tests on all cores more


@pytest.fixture(scope="session")
def serve() -> Callable[..., AbstractContextManager[str]]:
    """Run `boneage serve` on a free port, with its output in a file: its address once ready."""
    pytest.importorskip("fastapi", reason='needs the extra "serve"')

    @contextmanager
    def serve(log: Path, *options: str) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "boneage", "serve", "--port", str(port), *options]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with log.open("wb") as lines:
            process = subprocess.Popen(
                command, env=environment, cwd=log.parent, stdout=lines, stderr=lines
            )
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)

    return serve


def _wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    pytest.fail(f"not ready after {READY_SECONDS:.0f} s: {log.read_text()}")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a package as pip does: its modules and its `.dist-info`, in a folder on the path."""
    written: list[str] = []

    def install(
        package: str,
        points: dict[str, dict[str, str]],
        modules: dict[str, str] | None = None,
        version: str = "1.0",
    ) -> Path:
        site = tmp_path / f"site-{package}"
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata)
        lines = [
            line
            for group, names in points.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for name, code in (modules or {}).items():
            (site / f"{name}.py").write_text(code)
            written.append(name)
        monkeypatch.syspath_prepend(site)
        return site

    yield install
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def fake_nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put an `nvidia-smi` on PATH that answers with these rows; returns its folder."""

    def fake(*cards: str, processes: Sequence[str] = (), otherwise: str = "") -> Path:
        rows, holders = ("\n".join(f"echo '{row}'" for row in each) for each in (cards, processes))
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        cases = (
            f"*query-gpu*)\n{otherwise or ':'}\n{rows}\n;;\n*query-compute-apps*)\n{holders}\n;;"
        )
        (folder / "nvidia-smi").write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\nesac\n')
        (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        return folder

    return fake


@pytest.fixture
def tensorflow_with_cuda(install: Callable[..., Path]) -> str:
    """Install the names of TensorFlow with CUDA 12; returns their folders for PYTHONPATH."""
    wheels = {"tensorflow": "2.21.0", "nvidia-cuda-runtime-cu12": "12.9.79"}
    return os.pathsep.join(str(install(name, {}, version=each)) for name, each in wheels.items())


@pytest.fixture
def tiny_plug_in(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the backbone `tiny` known to commands in processes of their own; returns its name."""
    points = {"boneage.backbones": {"tiny_plug_in": "tiny_plug_in:tiny"}}
    site = install("tiny-plug-in", points, {"tiny_plug_in": TINY_BACKBONE})
    path = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    return "tiny_plug_in"


VAL_FOLDER = "Bone Age Validation Set"
TEST_FOLDER = "Bone Age Test Set"
TRAIN_IDS, VAL_IDS, TEST_IDS = range(1400, 1430), range(1386, 1398), range(4360, 4366)


@pytest.fixture(scope="session")
def official_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the challenge's four archives unpack to, in miniature: 30, 12 and 6 phantoms."""
    import cv2
    import openpyxl

    from boneage.datasets.phantom.cohort import phantom

    root = tmp_path_factory.mktemp("official")
    places = {
        "boneage-training-dataset": TRAIN_IDS,
        f"{VAL_FOLDER}/boneage-validation-dataset-1": VAL_IDS[:7],
        f"{VAL_FOLDER}/boneage-validation-dataset-2": VAL_IDS[7:],
        f"{TEST_FOLDER}/Test Set Images": TEST_IDS,
    }
    radiographs = {}
    for place, ids in places.items():
        (root / place).mkdir(parents=True)
        for name in ids:
            radiographs[name] = phantom(0, name, 64)
            cv2.imwrite(str(root / place / f"{name}.png"), radiographs[name].image)
    boys = {name: radiograph.sex == "M" for name, radiograph in radiographs.items()}
    ages = {name: int(radiograph.age_months) for name, radiograph in radiographs.items()}
    _write_csv(root / "train.csv", "id,boneage,male", [(n, ages[n], boys[n]) for n in TRAIN_IDS])
    _write_csv(
        root / VAL_FOLDER / "Validation Dataset.csv",
        "Image ID,male,Bone Age (months)",
        [(n, str(boys[n]).upper(), ages[n]) for n in VAL_IDS],
    )
    book = openpyxl.Workbook()
    book.active.append(["Case ID", "Sex", "Ground truth bone age (months)"])
    for name in TEST_IDS:
        book.active.append([name, "M" if boys[name] else "F", ages[name] + 0.37])
    book.save(root / TEST_FOLDER / "Bone age ground truth.xlsx")
    return root


def _write_csv(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Write a DICOM radiograph with a phantom's pixels; a value None leaves an element out."""
    import numpy as np
    from pydicom import config
    from pydicom.datadict import DicomDictionary, tag_for_keyword
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    from boneage.datasets.phantom.cohort import draw_hand

    pixels = draw_hand(120, "F", rng=np.random.default_rng(0), size=64).astype(np.uint16) * 16
    radiography = "1.2.840.10008.5.1.4.1.1.1"

    def write(path: Path, dataset: Dataset | None = None, **values: object) -> Path:
        dataset = dataset or Dataset()
        for keyword, value in {"SOPClassUID": radiography, "Modality": "CR", **values}.items():
            tag = tag_for_keyword(keyword)
            vr = DicomDictionary[tag][0]
            if vr == "IS" and not str(value).isdigit():
                vr = "LO"  # pydicom refuses to write words as a number
            if value is not None:
                dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = values.get("BitsAllocated", 16)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = pixels.tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = radiography
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.3680043.10.999.1"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
