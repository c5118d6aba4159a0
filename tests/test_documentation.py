"""Every command and every line of Python of README.md and of docs/ runs, on small data."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import typer

from boneage.cli import main as cli
from boneage.cli.app import app
from boneage.datasets.phantom.cohort import make_phantom_cohort
from boneage.recipe import read_recipe

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *DOCS]}
COUNT = 110  # radiographs of the reader; a calibration needs 100

# What a page says at its real size, and what is run here in its place: the first that fits.
SMALLER = {
    r"boneage data phantom (\S+).*": r"boneage data phantom \1 --count 60 --size 96",
    # The network that ships takes long to build.
    r"boneage train rsna-half (.*)--init rsna-best": (
        r"boneage train rsna-best-cpu \1--init runs/mine "
        "--set training.epochs=1 --set model.backbone=tiny"
    ),
    r"boneage train(?!.*--resume)(.*--set model.backbone)": (
        r"boneage train --set training.epochs=1\1"
    ),
    r"boneage train (\S*phantom/recipe.toml)(?!.*--data)": (
        r"boneage train --set training.epochs=1 --set phantom.count=60 --set phantom.size=96 "
        r"--set model.backbone=tiny \1"
    ),
    r"boneage train(?!.*--resume)": (
        r"boneage train --set training.epochs=1 --set model.backbone=tiny"
    ),
    r"boneage stress (\S+).*": r"boneage stress \1 --limit 5",
    r"boneage (sweep|cross-validate)": (
        r"boneage \1 --only 1 --set training.epochs=1 --set model.backbone=tiny"
    ),
    r"boneage (predict|evaluate|calibrate) rsna-best(?!.*--views)": (
        r"boneage \1 rsna-best --views 1"
    ),
    r"boneage (reproduce .*)--data DIR": (
        r"boneage \1--data rsna-bone-age --dry-run --set model.weights=none --set framing.size=96 "
        "--set model.backbone=tiny"
    ),
}
# They don't end, need the network or a GPU, or Keras starts with another backend: only parsed.
NOT_RUN = r"boneage (serve|site|data download)\b|.* (--watch|--hosts|--require-gpu)\b|KERAS_BACKEND"
# Exit codes for small drawn hands: a limit is exceeded, or one of them is no hand for the model.
DRAWN_HANDS = {"boneage stress": 1, "boneage predict": 3}
FOREIGN = {"docker", "podman", "make", "pip", "git", "sbatch", "kubectl", "mkdir", "curl"}
FOREIGN |= {"python3", "python", "cd", ".", "export", "hf", "jupyter"}


def blocks(page):
    """Every fence of a page, in its order: language and text."""
    text = PAGES[page].read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def lines(text):
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def commands(page):
    return [line for language, text in blocks(page) if not language for line in lines(text)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, write_dicom):
    """What a reader has: radiographs, tables of ages, a PACS export, Kaggle's set, the recipes."""
    folder = tmp_path_factory.mktemp("reader")
    manifest = make_phantom_cohort(folder / "radiographs", count=COUNT, size=96, progress=False)
    table, images = manifest.table, manifest.image_paths()
    for place in (folder, folder / "radiographs"):
        shutil.copy(images[0], place / "hand.png")
    sex = table["sex"].str.lower()
    ages = {"file": "radiographs/" + table["image"], "age": table["age_months"] / 12, "sex": sex}
    ages = pd.DataFrame(ages)
    ages.to_csv(folder / "ages.csv", index=False)
    ages = ages.rename(columns={"age": "bone age"}).assign(child=table["image_id"])
    ages.to_excel(folder / "ages.xlsx", index=False)
    uids = [f"1.2.3.{number}" for number in range(20)]
    for number, uid in enumerate(uids):
        hand = {"SOPInstanceUID": uid, "PatientID": f"p{number}", "PatientSex": "FM"[number % 2]}
        write_dicom(
            folder / "export" / f"{number:03}.dcm", **hand, StudyInstanceUID=f"1.2.4.{number}"
        )
    readings = pd.DataFrame({"SOPInstanceUID": uids, "bone age": range(60, 80)})
    readings.to_excel(folder / "readings.xlsx", index=False)
    (folder / "scans").mkdir()
    kaggle = folder / "rsna-bone-age" / "boneage-training-dataset" / "boneage-training-dataset"
    kaggle.mkdir(parents=True)
    for row, path in zip(table.itertuples(), images, strict=True):
        name = f"{row.image_id}_{row.sex}_{row.age_months:.0f}.png"
        shutil.copy(path, folder / "scans" / name)
        shutil.copy(path, kaggle / f"{int(row.image_id) + 1377}.png")
    rsna = {
        "id": table["image_id"].astype(int) + 1377,
        "boneage": table["age_months"].round().astype(int),
        "male": table["sex"] == "M",
    }
    labels = folder / "rsna-bone-age" / "boneage-training-dataset.csv"
    pd.DataFrame(rsna).to_csv(labels, index=False)
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    samples = Path("boneage", "serving", "page", "samples")
    shutil.copytree(ROOT / samples, folder / samples)
    hand = pydicom.dcmread(folder / "export" / "000.dcm")  # with a hand that is answered
    pixels = cv2.imread(str(folder / samples / "girl-13-years.png"), cv2.IMREAD_GRAYSCALE)
    hand.Rows, hand.Columns = pixels.shape
    hand.PixelData, hand.SeriesInstanceUID = (pixels.astype(np.uint16) * 16).tobytes(), "1.2.5"
    hand.save_as(folder / "hand.dcm")
    return folder


def run(line, capsys, monkeypatch):
    """Run a command of the command line, at its small size."""
    for pattern, small in SMALLER.items():
        if re.search(pattern, line):
            line = re.sub(pattern, small, line)
            break
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    fine = {0, None, *(code for verb, code in DRAWN_HANDS.items() if line.startswith(verb))}
    assert ended.value.code in fine, f"{line}\n{captured.out}\n{captured.err}"
    if line.startswith("boneage predict") and ended.value.code and "--out" not in line:
        assert re.search(r"\d months", captured.out), f"{line}: every hand is refused"


@pytest.fixture
def runner(reader, tiny_network, trains_here, capsys, monkeypatch):
    """Run commands in a folder, one after another."""
    monkeypatch.delenv("BONEAGE_RUNS", raising=False)

    def start(folder, *commands):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("BONEAGE_CACHE", str(folder / "cache"))
        for line in commands:
            run(line, capsys, monkeypatch)

    return start


@pytest.fixture
def trained(reader, runner):
    """The reader's folder after the first how-to: a manifest, and a run of one epoch."""
    if not (reader / "manifest.csv").exists():
        table = "--image file --age age --age-unit years --sex sex --female f --male m"
        runner(
            reader,
            f"boneage data import table ages.csv {table} --out manifest.csv",
            "boneage train rsna-best-cpu --data manifest.csv --out runs/mine",
        )
    return reader


@pytest.fixture
def arrays():
    """The arrays that the pages' Python uses without making them."""
    rng = np.random.default_rng(0)
    count = 40
    names = {"metadata": rng.random((count, 2), dtype=np.float32), "weights": np.ones(count)}
    for prefix in ("", "val_"):
        names[f"{prefix}images"] = rng.integers(0, 256, (count, 128, 128), dtype=np.uint8)
        names[f"{prefix}gender"] = ["F", "M"] * (count // 2)
        names[f"{prefix}age_months"] = rng.uniform(12, 200, count)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_the_python_of_a_page_run(
    page, trained, runner, arrays, install, tmp_path, monkeypatch
):
    folder = tmp_path / "reader"
    shutil.copytree(trained, folder)
    if re.search(r"boneage train .*--out runs/mine\b", "\n".join(commands(page))):
        shutil.rmtree(folder / "runs" / "mine")
    monkeypatch.chdir(folder)
    for language, text in blocks(page):
        name = re.match(r"# (\S+\.\w+)\n", text)
        if name and language:  # the content of a file
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(text, encoding="utf-8")
        if language == "python":
            exec(compile(text, page, "exec"), arrays)
        for line in lines(text) if not language else []:
            package = re.match(r"pip install \./(\S+)", line)
            if package:
                install_package(folder / package[1], install)
            elif line.startswith("boneage ") and not re.match(NOT_RUN, line):
                runner(folder, line)
    if "--out runs/mine" in "\n".join(commands(page)):
        assert (folder / "runs" / "mine" / "report.html").exists()


def install_package(folder, install):
    """Install a package of a page, as pip does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    modules = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    install(project["name"], project["entry-points"], modules, project["version"])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_known(page):
    for line in commands(page):
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words[0] == "boneage":
                parse(words[1:])
            else:
                assert words[0] in FOREIGN, line
                check_foreign(words)


def parse(arguments):
    """Refuse a verb, an option or a missing argument as the command line would."""
    command = typer.main.get_command(app)
    context = command.context_class(command)
    arguments = list(arguments)
    while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        name = arguments.pop(0)
        command = command.get_command(context, name)
        if command is None:
            assert name == "clinic", name  # the plug-in of a page
            return
        context = command.context_class(command, parent=context, info_name=name)
    values, _, _ = command.make_parser(context).parse_args(arguments)
    if not values.get("help"):
        missing = [each.name for each in command.params if each.required and not values[each.name]]
        assert not missing, arguments


def check_foreign(words):
    """Refuse a target, a stage, an extra, a file or a module that doesn't exist."""
    if words[0] in ("docker", "podman") and "run" in words[:3]:
        images = [i for i, word in enumerate(words) if re.match(r"\S*\bboneage(:|$)", word)]
        assert images, words
        parse(words[images[-1] + 1 :])
    if words[0] in ("docker", "podman") and "--target" in words:
        stage = words[words.index("--target") + 1]
        assert re.search(rf"^FROM .* AS {stage}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    if words[0] == "make" and len(words) > 1:
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    if words[0] == "pip":
        extras = re.findall(r"\[([\w,-]+)\]", " ".join(words))
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(",".join(extras).split(",")) <= {"", *project["optional-dependencies"]}, words
    if words[0].startswith("python") and words[1:2] == ["-m"]:
        assert importlib.util.find_spec(words[2]) is not None, words
    for word in words:
        if word.startswith("experiments/"):
            assert (ROOT / word).exists(), word


def verbs(command):
    if not hasattr(command, "commands"):
        yield command
    for inner in getattr(command, "commands", {}).values():
        yield from verbs(inner)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_a_page_names_exists(page):
    found = verbs(typer.main.get_command(app))
    known = {
        text
        for verb in found
        for each in verb.params
        for text in (*each.opts, *each.secondary_opts)
    }
    foreign = [line for line in commands(page) if not line.startswith("boneage")]
    known |= set(re.findall(r"--[a-z][a-z0-9-]*", "\n".join(foreign)))
    known |= {"--help", "--user", "--gpus"}
    prose = re.sub(
        r"^```.*?^```", "", PAGES[page].read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    spans = " ".join(re.findall(r"`((?:boneage |--)[^`]*)`", prose))
    assert not set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", spans)) - known


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_server_answers_the_requests_of_the_pages(reader, tmp_path, serve, monkeypatch):
    asks = [line for page in PAGES for line in commands(page) if line.startswith("curl ")]
    monkeypatch.setenv("BONEAGE_TOKEN", "a-long-word")
    with serve(tmp_path / "log.txt") as address:
        for ask in asks:
            ask = ask.replace("http://127.0.0.1:8000", address)
            ask = re.sub(r"Bearer [$\w]+", "Bearer a-long-word", ask)
            if "Authorization" not in ask:
                ask += " -H 'Authorization: Bearer a-long-word'"
            command = [*shlex.split(ask), "--silent", "--fail-with-body"]
            done = subprocess.run(command, cwd=reader, stdout=subprocess.PIPE, check=False)
            assert done.returncode == 0, f"{ask}\n{done.stdout.decode()}"
            if "/v1/predict" in ask:
                answer = json.loads(done.stdout)
                assert answer["status"] == "answered"
    assert any("/v1/predict" in ask for ask in asks)


def built_site(folder):
    """Build the documentation in a folder, as `make docs` does."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    site = built_site(tmp_path)
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)[^>]*src="?(?:https?:)?//', text)
        assert not re.findall(r'<link[^>]*href="?(?:https?:)?//', text), page
    for path in DOCS:
        assert (site / path.relative_to(ROOT / "docs")).with_suffix(".html").exists()


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for path in DOCS:
        assert f'"{path.relative_to(ROOT / "docs").as_posix()}"' in nav, path


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists(page):
    for target in re.findall(r"\]\(([^)#:]+)[)#]", PAGES[page].read_text(encoding="utf-8")):
        path = PAGES[page].parent / target
        assert path.exists(), target
        assert page == "README.md" or path.resolve().is_relative_to(ROOT / "docs"), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("page", [*PAGES, "data/README.md", "experiments/README.md"])
def test_no_page_waits_for_a_number(page):
    assert "@@" not in (ROOT / page).read_text(encoding="utf-8")


def test_an_experiment_has_a_result_or_a_published_number_or_says_that_it_has_not_been_run():
    for recipe in (ROOT / "experiments").glob("*/recipe.toml"):
        results = list((recipe.parent / "results").glob("*seed-*.json"))
        says = "has not been run" in recipe.read_text(encoding="utf-8")
        assert results or read_recipe(recipe).published is not None or says, recipe
