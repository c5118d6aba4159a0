from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from boneage.datasets.manifest import read_manifest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "plug-in.md"


def write_example(package: Path) -> None:
    """Write the package that the documentation shows."""
    package.mkdir()
    for name, language in (("pyproject.toml", "toml"), ("boneage_clinic.py", "python")):
        fence = rf"```{language}\n# {package.name}/{name}\n(.*?)```"
        block = re.search(fence, PAGE.read_text(encoding="utf-8"), re.DOTALL)
        assert block is not None, f"{PAGE} has no {name}"
        (package / name).write_text(block.group(1))


def pip_install(*arguments: str | Path) -> None:
    """Install a package as a user does, without the network."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    offline = ["--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, *offline, *arguments], check=True)


@pytest.mark.slow
def test_the_example_in_the_documentation_installs_and_runs(cohort: Path, tmp_path: Path) -> None:
    package, site = tmp_path / "boneage-clinic", tmp_path / "site"
    write_example(package)
    pip_install("--target", site, package)
    (tmp_path / "scans").mkdir()
    table = read_manifest(cohort).table.head(20)
    for row, path in zip(table.itertuples(), read_manifest(cohort).image_paths(), strict=False):
        shutil.copy(path, tmp_path / "scans" / f"{row.image_id}_{row.sex}_{row.age_months:.0f}.png")
    command = [sys.executable, "-c", "from boneage.cli.main import main; main()", "data", "import"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}

    def run(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip

    assert re.search("clinic +Importer of boneage-clinic", run("--help"))
    assert "Import the clinic's radiographs" in run("clinic", "--help")
    assert "20 images" in run("clinic", "scans", "--out", "clinic.csv")
    manifest = read_manifest(tmp_path / "clinic.csv")
    assert manifest.table["image_id"].tolist() == sorted(table["image_id"])
    assert set(manifest.table["source"]) == {"clinic, seeded split"}


IMPORTERS = """
from pathlib import Path

def fails(source, out):
    \"""Divide by nothing.

    Always.
    \"""
    assert out == Path("manifest.csv")
    raise ZeroDivisionError("by nothing")

def stops(source, out): raise KeyboardInterrupt
def leaves(source, out): raise SystemExit(0)
def returns_nothing(source, out): ...
def wants_more(source, out, *, column): ...
def takes_none(): ...
"""
GROUP = "boneage.datasets"


@pytest.fixture
def offer(install: Callable[..., Path]) -> Callable[..., Path]:
    """Install a package with importers, by default those above."""

    def offer(*names: str, package: str = "boneage-clinic", **values: str) -> Path:
        points = {name: f"clinic_importers:{name}" for name in names} | values
        return install(package, {GROUP: points}, {"clinic_importers": IMPORTERS})

    return offer


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("fails", r"it failed (ZeroDivisionError: by nothing)"),
        ("returns_nothing", "it returned NoneType instead of a Manifest"),
        ("wants_more", "missing 1 required keyword-only argument: 'column'"),
        ("takes_none", "takes 0 positional arguments but 2 were given"),
        ("leaves", "it failed (SystemExit: 0)"),
    ],
)
def test_a_plug_in_that_fails_is_named_with_its_package(
    boneage, refused, offer, name: str, what: str
) -> None:
    offer(name)
    where = f"boneage data import {name} (from boneage-clinic 1.0): "
    contract = "An importer is one function (source: Path, out: Path) -> Manifest."
    refused(boneage("data", "import", name, "scans"), where, what, contract)


def test_ctrl_c_in_a_plug_in_is_that_of_the_user(boneage, offer) -> None:
    offer("stops")
    assert boneage("data", "import", "stops", "scans")[0] == 130


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("no_such_module:function", "can't be loaded (ModuleNotFoundError"),
        ("math:pi", "math:pi is not a function"),
        ("clinic_importers:no", "can't be loaded (AttributeError"),
        ("not a value", "can't be loaded"),
    ],
)
def test_a_broken_plug_in_is_refused_and_the_others_work(
    boneage, refused, offer, value: str, what: str
) -> None:
    offer("fails", broken=value)
    _, listed, _ = boneage("data", "import", "--help")
    assert re.search("broken +Importer of boneage-clinic 1.0.", listed)
    assert re.search("fails +Importer of boneage-clinic 1.0.", listed)
    assert re.search("rsna +Import the RSNA 2017 challenge set.", listed)
    refused(boneage("data", "import", "broken", "x"), "(from boneage-clinic 1.0)", what)
    assert "Broken: " in boneage("data", "import", "broken", "-h")[1] or "function" in what
    assert "Always." in boneage("data", "import", "fails", "--help")[1]


def test_a_name_that_is_taken(boneage, refused, offer) -> None:
    offer("fails", package="b-scans", rsna="clinic_importers:fails")
    offer("fails", package="a-scans")
    _, listed, _ = boneage("data", "import", "--help")
    assert listed.count("\n  rsna ") == 1
    assert "b-scans 1.0 offers rsna, too. The importer of boneage is used." in listed
    assert "Broken: offered by a-scans 1.0 and b-scans 1.0." in listed
    answer = boneage("data", "import", "fails", "scans")
    refused(answer, "(from a-scans 1.0 and b-scans 1.0)", "2 plug-ins have this name")


def test_a_name_like_an_option_hides_none(boneage, offer) -> None:
    offer("fails", **{"--help": "clinic_importers:fails", "-x": "clinic_importers:fails"})
    code, listed, _ = boneage("data", "import", "--help")
    assert (code, listed.count("Importer of boneage-clinic")) == (0, 1)


def test_the_help_runs_no_plug_in(boneage, install) -> None:
    code = 'import sys; sys.exit("imported")\ndef slow(source, out):\n    """Take long."""\n'
    install("boneage-slow", {GROUP: {"slow": "slow_importer:slow"}}, {"slow_importer": code})
    code, listed, error = boneage("data", "import", "--help")
    assert re.search("slow +Importer of boneage-slow", listed)
    assert (code, error) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize("is_editable", [False, True])
def test_a_package_that_is_found_twice_counts_once(
    cohort: Path, tmp_path: Path, is_editable: bool
) -> None:
    package, target = tmp_path / "boneage-clinic", tmp_path / "target"
    write_example(package)
    with (package / "pyproject.toml").open("a") as file:  # without it, one more package is needed
        file.write('[tool.hatch.build]\ndev-mode-dirs = ["."]\n')
    pip_install(*(["--editable"] if is_editable else []), package, "--prefix", target)
    (site,) = target.rglob("site-packages")
    again = tmp_path / "again"
    again.symlink_to(site)
    start = f"import site; [site.addsitedir(f) for f in ({str(site)!r}, {str(again)!r})]; "
    command = [sys.executable, "-c", f"{start}from boneage.cli.main import main; main()"]
    paths = [str(site), str(site), str(package), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    (tmp_path / "scans").mkdir()
    shutil.copy(next(cohort.parent.glob("images/*.png")), tmp_path / "scans" / "1_F_40.png")
    done = subprocess.run(
        [*command, "data", "import", "clinic", "scans"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 images" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rsna", "nothing"], "nothing"),
        (["rhpe", "nothing"], "nothing"),
        (["dha", "nothing", "--labels", "x.csv", "--readings-unit", "years"], "nothing"),
        (["dicom", "nothing", "--labels", "x.csv", "--age", "a", "--age-unit", "years"], "x.csv"),
        (["dicom", "folder", "--ages", "x"], "Use --labels."),
        (["dha", "folder", "--readings", "x"], "Use --labels."),
        (["dicom", "folder", "--films", "x"], "images are always written"),
        (["nowhere"], "No such command 'nowhere'"),
    ],
)
def test_what_is_not_there_and_options_of_earlier_versions_are_refused(
    boneage, refused, tmp_path, arguments, message
) -> None:
    refused(boneage("data", "import", *arguments), message)
    assert not list(tmp_path.iterdir())


COLUMNS = ("--image", "image", "--age", "age_months", "--age-unit", "months", "--sex", "sex")
CODES = ("--female", "F", "--male", "M")


@pytest.mark.parametrize("name", ["labels.csv", "notes.txt", "photo.png", "empty"])
def test_an_import_replaces_no_file_but_a_manifest(
    boneage, refused, cohort, tmp_path, name: str
) -> None:
    content = {"labels.csv": b"id,boneage\n1,10\n", "photo.png": b"\x89PNG\xff"}.get(name, b"")
    (tmp_path / name).write_bytes(content)
    command = ("data", "import", "table", cohort, *COLUMNS, *CODES, "--out")
    refused(boneage(*command, name), f"{name}: this file exists and is no manifest")
    assert (tmp_path / name).read_bytes() == content
    assert boneage(*command, "m.csv")[0] == 0
    code, out, _ = boneage(*command, "m.csv")
    digest = read_manifest(tmp_path / "m.csv").split_digest
    assert (code, f"split digest: {digest} (ids, splits, ages and sexes)" in out) == (0, True)


def test_an_import_does_not_replace_its_own_table(boneage, refused, cohort, tmp_path) -> None:
    shutil.copytree(cohort.parent, tmp_path / "data")
    table = tmp_path / "data" / cohort.name
    before = table.read_bytes()
    answer = boneage("data", "import", "table", table, *COLUMNS, *CODES, "--out", table)
    refused(answer, "this is the table to import")
    assert table.read_bytes() == before
