"""What is handed on names no folder of this machine and no user."""

from __future__ import annotations

import getpass
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from boneage.evaluation.data_card import write_card
from boneage.evaluation.release import release
from boneage.evaluation.report import write_report
from boneage.evaluation.result import write_result
from boneage.run import Run


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """The bytes of a file, and of the members of an archive."""
    yield path.name, path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield f"{path.name}/{name}", archive.read(name)


def folders_named_in(path: Path) -> list[tuple[str, str]]:
    """The folders of this machine and the user that a file names, with the name of its part."""
    hidden = {str(Path(tempfile.gettempdir()).resolve()), str(Path.home()), getpass.getuser()}
    hidden -= {"/", "/root", "root"}  # too short, or also words: `:root` of a style sheet
    hidden |= {f"/{getpass.getuser()}/"}
    return [
        (name, word)
        for name, content in contents(path)
        for word in hidden
        if word.encode() in content
    ]


def test_the_files_of_a_run_a_release_and_a_card_name_no_folder(
    finished_run: Run, cohort: Path, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(finished_run.folder, run.folder)
    write_result(run)
    write_report(run)
    released = release(run, tmp_path / "small", progress=False)
    card = write_card(cohort, tmp_path / "card.html", progress=False)
    # What a resumed training needs: these two stay on the machine, as `Run` says.
    kept = {run.info_path, run.checkpoint_path}
    files = {path for path in run.folder.rglob("*") if path.is_file()} - kept
    handed_on = [*files, *released.folder.iterdir(), card]
    names = {path.name for path in handed_on}
    assert {"report.html", "result.json", "metrics-test.json", "predictions-test.csv"} <= names
    assert {"best.keras", "README.md", "run.json", "card.html", "bland-altman.png"} <= names
    found = {path.name: hits for path in handed_on if (hits := folders_named_in(path))}
    assert not found
    assert folders_named_in(run.info_path)  # else this test would find nothing anywhere
