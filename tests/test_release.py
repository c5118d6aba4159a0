"""The package is built the same everywhere, and no page has a number that was not measured."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), ROOT / "data" / "README.md"] + [
    page
    for folder in ("boneage", "docs", "experiments")
    for end in ("md", "ipynb")
    for page in (ROOT / folder).rglob(f"*.{end}")
]
INSTALL = re.compile(
    r"\b(?:(?:pip|pipx|uv pip|uv tool|conda) (?:install|run)|uvx|uv add) ([^\n`&;|#]*)"
)


def run(*command: str | Path, cwd: Path = ROOT, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


def build(source: Path, out: Path, *targets: str, umask: int) -> dict[str, Path]:
    done = run(
        *(sys.executable, "-m", "hatchling", "build", "-d", out, *(f"-t{t}" for t in targets)),
        cwd=source,
        umask=umask,
    )
    assert done.returncode == 0, done.stderr
    return {path.suffix: path for path in out.iterdir()}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no clone")
def test_the_sdist_holds_the_repository_and_builds_the_same_wheel_anywhere(tmp_path: Path) -> None:
    built = build(ROOT, tmp_path / "one", "sdist", "wheel", umask=0o022)
    with tarfile.open(built[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "sdist", filter="data")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split()
    assert names == {"PKG-INFO", *(name for name in listed if (ROOT / name).exists())}

    (source,) = (tmp_path / "sdist").iterdir()
    for path in (source / "boneage").rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    again = build(source, tmp_path / "two", "wheel", umask=0o077)
    assert digest(again[".whl"]) == digest(built[".whl"])


def test_every_number_of_the_pages_has_a_result_file() -> None:
    done = run(sys.executable, ROOT / ".ci/numbers")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"MAE 7\.61 months", "MAE 7.16 months", "no result file holds 7.16"),
        (r"6,595", "6,959", "no result file holds 6,959"),
        (r"\Z", "It takes 12 MB.\n", "no result file holds 12 in "),
    ],
)
def test_a_number_that_no_result_file_holds_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    for name in (".ci", "boneage", "experiments", "CHANGELOG.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    (tmp_path / "README.md").write_text(changed, encoding="utf-8")
    done = run(sys.executable, ROOT / ".ci/numbers", "--root", tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_release_is_refused_with_every_reason_at_once(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    for name in ("release", "numbers"):
        shutil.copy(ROOT / ".ci" / name, tmp_path / ".ci" / name)
    (tmp_path / ".ci" / "numbers.toml").write_text('["README.md"]\n')
    (tmp_path / "README.md").write_text("MAE 5.00 months.\n")
    (tmp_path / "boneage").mkdir()
    (tmp_path / "boneage" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    run("git", "init", "--quiet", cwd=tmp_path)
    done = run(sys.executable, tmp_path / ".ci/release", "0.2.0", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "dist").exists()
    for reason in (
        "uncommitted changes. Commit or remove them:\n?? .ci/",
        'boneage/__init__.py has version 0.1.0. Write: __version__ = "0.2.0"',
        "CHANGELOG.md has no version. Write: ## [0.2.0] - YEAR-MONTH-DAY",
        'CITATION.cff has no version. Write: version: "0.2.0"',
        "README.md: no result file holds 5.00 in 'MAE 5.00 months.'",
    ):
        assert f"error: {reason}" in done.stderr


def test_every_install_is_from_a_clone_or_a_wheel() -> None:
    # Nobody owns the name in a registry yet, so the package of that name could be anybody's.
    for page in PAGES:
        for arguments in INSTALL.findall(page.read_text(encoding="utf-8")):
            assert not re.search(r"""(?<![\w./-])boneage(?![\w./-])""", arguments), (
                page,
                arguments,
            )
    assert INSTALL.search('\npip install "boneage[train]"\n')
