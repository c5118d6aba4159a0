from __future__ import annotations

import json
import sys

import pytest

from experiments.throughput.benchmark.__main__ import main
from experiments.throughput.benchmark.contenders import Contender
from experiments.throughput.benchmark.radiographs import draw_radiographs


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_the_group_names_its_verbs(run):
    code, output, _ = run("--help")
    assert code == 0
    for verb in ("pipeline", "prepare", "training", "memory", "inference"):
        assert f"  {verb} " in output


def test_json_is_all_that_is_printed_and_out_holds_the_same(run, tmp_path):
    draw_radiographs(tmp_path / "films", 2, (80, 64))
    code, output, said = run(
        *("prepare", "--json", "--size", 32, "--count", 3, "--rounds", 1),
        *("--films", tmp_path / "films", "--out", tmp_path / "result.json"),
    )
    assert code == 0
    result = json.loads(output)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert len(result["rows"]) == 3
    assert "round 1 of 1" in said


def test_without_json_there_is_a_table(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Contender, "lacks", lambda one: f"{one.needs[0]} is not installed")
    radiographs = draw_radiographs(tmp_path, 1, (80, 64))
    peers = ("--contender", "torch-png", "--contender", "grain-store")
    code, output, _ = run("pipeline", *peers, "--films", radiographs[0], "--size", 32)
    assert code == 0
    assert "cores" in output.splitlines()[0]
    assert "images/s" in output
    assert "PyTorch DataLoader, resized PNG skipped: torch is not installed" in output
    assert "skipped: grain is not installed" in output


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("pipeline", "--contender", "nobody"), "--contender nobody"),
        (("prepare", "--films", "nowhere.txt"), "--films nowhere.txt"),
        (("inference", "some-run", "--recipe", "recipe.toml"), "benchmark inference"),
        (("inference", "no-such-run"), "no-such-run"),
    ],
)
def test_what_makes_no_sense_is_refused(run, arguments, wrong):
    code, output, error = run(*arguments)
    assert code == 2
    assert output == ""
    assert error.splitlines()[-1].startswith(f"error: {wrong}")


def test_options_reach_the_training(run, monkeypatch):
    seen = {}

    def measure(**settings):
        seen.update(settings)
        return {"machine": {"device": "x", "cores": 2}, "settings": {}, "rows": []}

    monkeypatch.setattr("experiments.throughput.benchmark.training.bench_training", measure)
    precision = ("--precision", "mixed_bfloat16")
    code, *_ = run("training", "--backbone", "xception", "--size", 500, "--batch", 256, *precision)
    assert code == 0
    assert (seen["backbone"], seen["size"], seen["batch"]) == ("xception", 500, 256)
    assert seen["precision"] == "mixed_bfloat16"
    assert seen["workers"] >= 1
