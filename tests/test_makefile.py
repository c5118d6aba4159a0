"""make install, with stand-ins for Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Refuses or passes the question for its version, and says what else it is asked.
STAND_IN = """#!/bin/sh
case "$*" in
  *version_info*) exit {code} ;;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && touch .venv/new ;;
  *) echo "python $*" ;;
esac
"""


def stand_in(path: Path, code: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(code=code), encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("fits", [True, False])
def test_an_environment_of_a_python_that_can_t_train_is_made_again(tmp_path, fits):
    # README's first command makes .venv with any Python that answers, such as 3.14.
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    stand_in(tmp_path / ".venv" / "bin" / "python", 0 if fits else 1)
    python = stand_in(tmp_path / "python3.12", 0)
    command = ["make", "--no-print-directory", "install", f"PYTHON={python}"]
    own = {"MAKEFLAGS", "MFLAGS", "LOCK"}  # of the make that runs the tests
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "-m pip install" in done.stdout
    assert (tmp_path / ".venv" / "new").exists() is not fits
