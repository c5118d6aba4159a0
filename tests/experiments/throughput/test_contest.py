"""Turns, failures and hangs, with contenders that are scripts of a few lines."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from experiments.throughput.benchmark.contest import Contest, Process
from experiments.throughput.benchmark.processes import tree

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")

SCRIPT = """
import json, subprocess, sys, time
kind = sys.argv[1]
if kind == "broken":
    raise ValueError("there is nothing in it")
if kind == "mute":
    time.sleep(600)
if kind == "parent":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"ready": True, "batch": {"shape": [2]}}), flush=True)
for number, line in enumerate(sys.stdin):
    if kind == "dying" and number == 1:
        raise RuntimeError("a worker was killed")
    if kind == "hanging":
        time.sleep(600)
    order = json.loads(line)
    answer = {"images": 10 * order["least"], "seconds": order["seconds"], "cpu_seconds": 0.5}
    print(json.dumps(answer), flush=True)
"""


def alive(process_id: int) -> bool:
    try:
        line = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return line.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def contest():
    begun = Contest(lambda _: None, lambda name: [sys.executable, "-c", SCRIPT, name])
    yield begun
    begun.close()


def test_everyone_gets_every_turn(contest, tmp_path):
    for name in ("one", "parent"):
        contest.enter(name, tmp_path)
    contest.play(3, 0.5, 2)
    turn = {"images": 20, "seconds": 0.5, "cpu_seconds": 0.5}
    assert contest.turns == {"one": [turn] * 3, "parent": [turn] * 3}
    assert contest.processes["one"].batch == {"shape": [2]}
    assert contest.errors == {}


def test_who_fails_falls_out_with_the_reason_and_the_others_go_on(contest, tmp_path):
    for name in ("broken", "dying", "one"):
        contest.enter(name, tmp_path)
    contest.play(2, 0.1, 1)
    assert contest.errors == {
        "broken": "ValueError: there is nothing in it",
        "dying": "RuntimeError: a worker was killed",
    }
    assert len(contest.turns["one"]) == 2


def test_who_hangs_falls_out(contest, tmp_path):
    contest.enter("mute", tmp_path, patience=0.3)
    contest.enter("hanging", tmp_path)
    contest.enter("one", tmp_path)
    contest.play(2, 0.1, 1, patience=0.5)
    assert set(contest.errors) == {"mute", "hanging"}
    assert "said nothing" in contest.errors["hanging"]
    assert len(contest.turns["one"]) == 2


def test_a_process_stands_still_between_turns_and_ends_with_its_children(tmp_path):
    process = Process([sys.executable, "-c", SCRIPT, "parent"], tmp_path)
    process.wait(30)
    members = tree(process._process.pid)
    assert len(members) == 2
    deadline = time.monotonic() + 10
    states = [Path(f"/proc/{member}/stat") for member in members]
    while {path.read_text().rpartition(")")[2].split()[0] for path in states} != {"T"}:
        assert time.monotonic() < deadline
    process.close()
    assert not Path(f"/proc/{members[0]}").exists()
    while alive(members[1]):  # whoever reaps orphans here may take a moment
        assert time.monotonic() < deadline
        time.sleep(0.01)
