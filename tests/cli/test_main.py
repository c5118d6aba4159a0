from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from boneage import __version__
from boneage.cli.app import VERBS


def test_help_lists_the_verbs_the_most_used_first() -> None:
    command = [sys.executable, "-c", "from boneage.cli.main import main; main()", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  ([a-z-]+)  +[A-Z]", done.stdout.partition("Commands:")[2], re.M)
    assert listed == list(VERBS)
    assert listed[:5] == ["train", "evaluate", "predict", "serve", "report"]
    assert len(listed) <= 16


@pytest.mark.parametrize(
    ("verb", "successor"),
    [
        (["bench", "pipeline"], "python -m experiments.throughput.benchmark"),
        (["leaderboard"], "python experiments/leaderboard.py"),
        (["data", "look", "x.csv"], "boneage data contact-sheet"),
    ],
)
def test_a_removed_verb_names_its_successor(boneage, refused, verb, successor) -> None:
    refused(boneage(*verb), successor)


def test_an_unknown_verb_exits_with_2(boneage) -> None:
    code, _, error = boneage("fly")
    assert code == 2
    assert "fly" in error


def run(*arguments: object, module: bool = False, **environment: str) -> tuple[int, str, str]:
    """Run a command in a process of its own: (exit code, standard output, standard error)."""
    code = ["-m", "boneage"] if module else ["-c", "from boneage.cli.main import main; main()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        [sys.executable, *code, *map(str, arguments)],
        env=environment, capture_output=True, encoding="utf-8", errors="replace",
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed(boneage, option) -> None:
    assert boneage(option) == (0, f"boneage {__version__}\n", "")


def test_python_m_boneage_is_the_command() -> None:
    assert run("--version", module=True) == (0, f"boneage {__version__}\n", "")
    assert "Usage: boneage data" in run("data", "-h", module=True)[1]


@pytest.mark.parametrize(
    "verb",
    [
        [], *([verb] for verb in VERBS), ["data", "import"], ["data", "import", "dicom"],
        ["data", "download", "rsna"], ["data", "phantom"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_h_is_help(boneage, verb) -> None:
    code, short, error = boneage(*verb, "-h")
    assert (code, error) == (0, "")
    assert short == boneage(*verb, "--help")[1]
    assert f"Usage: {' '.join(['boneage', *verb])}" in short


def test_a_misspelled_verb_gets_a_suggestion(boneage) -> None:
    assert "Did you mean 'train'?" in boneage("trian")[2]
    assert "Did you mean 'check'?" in boneage("data", "chekc")[2]


def test_a_command_alone_shows_its_help(boneage) -> None:
    for verb in ([], ["data"], ["data", "import"]):
        code, out, error = boneage(*verb)
        assert code in (0, 2)
        assert "Commands:" in out + error


COMPLETE = """
import rlcompleter, sys
import boneage
completer, index, found = rlcompleter.Completer({"boneage": boneage}), 0, []
while (match := completer.complete("boneage.", index)) is not None:
    found.append(match)
    index += 1
assert "keras" not in sys.modules
names = {"Augmentation", "DataGenerator", "InputError", "build_model", "load"}
assert {f"boneage.{name}" for name in names} == {each.rstrip("(") for each in found}, found
assert names <= set(dir(boneage))
from boneage import *
assert build_model.__module__ == "boneage.models.builder"
assert DataGenerator is boneage.DataGenerator
try:
    boneage.generator
except AttributeError as error:
    assert "no attribute 'generator'" in str(error)
"""


@pytest.mark.slow
def test_the_public_names_are_completed_without_keras() -> None:
    done = subprocess.run([sys.executable, "-c", COMPLETE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_any_environment_will_do(cohort, tmp_path) -> None:
    environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "COLUMNS": "none"}
    environment |= dict.fromkeys(("HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME"), "/nonexistent")
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"}
    code, out, error = run("data", "card", cohort, "--out", tmp_path / "card.html", **environment)
    assert (code, out) == (0, f"{tmp_path / 'card.html'}\n"), error
    assert "Traceback" not in error
    assert "<svg" in (tmp_path / "card.html").read_text(encoding="utf-8")


def test_a_name_that_is_no_utf8_is_one_message(cohort_copy, tmp_path) -> None:
    folder = cohort_copy.parent.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    columns = "--image image --age age_months --age-unit months --sex sex --female F --male M"
    table, out = folder / cohort_copy.name, tmp_path / "new.csv"
    answer = run("data", "import", "table", table, *columns.split(), "--out", out)
    what = "the name of a file or a folder has bytes that are no UTF-8, so it can't be recorded"
    assert answer == (2, "", f"error: {what}. Rename it.\n")
    assert not out.exists()


def test_the_library_leaves_the_user_s_backend_alone() -> None:
    code = (
        "import matplotlib; import boneage.evaluation.report; "
        "assert matplotlib.rcParams._get('backend') == 'svg'; "
        "import sys; assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {**os.environ, "MPLBACKEND": "svg", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_a_terminal_that_lacks_letters_gets_every_message(boneage, cohort_copy, edit) -> None:
    edit(cohort_copy, 0, image="骨龄.png")
    code, out, _ = run("data", "check", cohort_copy, PYTHONIOENCODING="latin-1")
    assert (code, r"\u9aa8\u9f84.png" in out) == (2, True)
    code, out, _ = boneage("data", "check", cohort_copy, "--json")
    assert (code, out.isascii()) == (2, True)
    assert "骨龄.png" in json.dumps(json.loads(out), ensure_ascii=False)


def test_a_user_without_a_home_folder_needs_none(monkeypatch) -> None:
    from boneage.runtime.files import home_folder

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert home_folder().is_dir()


@pytest.mark.slow
def test_output_that_is_closed_or_full_is_no_traceback(cohort) -> None:
    for end in (">&-", ">&- 2>&-", "> /dev/full"):
        if "full" in end and not Path("/dev/full").exists():
            continue
        line = f'"{sys.executable}" -m boneage data check "{cohort}" {end}'
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == (2 if "full" in end else 0)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("end", ["2>&-", "2> /dev/full", "> /dev/full 2>&1"])
def test_the_exit_code_counts_where_nobody_can_read_the_reason(end: str) -> None:
    if "full" in end and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    line = f'"{sys.executable}" -m boneage data frame absent.png {end}'
    assert subprocess.run(["sh", "-c", line], check=False).returncode == 2


@pytest.mark.slow
def test_a_backend_that_keras_can_not_import_is_no_traceback(cohort: Path) -> None:
    image = next((cohort.parent / "images").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "boneage", "predict", "rsna-best-1", image, "--sex", "F"],  # no ONNX
        env={**os.environ, "KERAS_BACKEND": "nonsense"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert "error: Keras can't be imported: ValueError: " in done.stderr
    assert "nonsense. Set KERAS_BACKEND to " in done.stderr
