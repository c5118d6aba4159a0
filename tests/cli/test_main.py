from __future__ import annotations

import re
import subprocess
import sys

import pytest

from boneage.cli.app import VERBS


def test_help_lists_the_verbs_the_most_used_first() -> None:
    command = [sys.executable, "-c", "from boneage.cli.main import main; main()", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  ([a-z-]+)  +[A-Z]", done.stdout.partition("Commands:")[2], re.M)
    assert listed == list(VERBS)
    assert listed[:5] == ["train", "evaluate", "predict", "report", "data"]
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
