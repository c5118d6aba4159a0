from __future__ import annotations

import json

import pytest

from boneage.evaluation import stress
from boneage.run import Run


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_every_gate_is_passed(
    boneage, tmp_path, monkeypatch, stress_result, passed, code
):
    mirrored, inverted = stress_result["changes"]
    result = stress_result | {"changes": [mirrored | {"passed": passed}, inverted]}
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    monkeypatch.setattr("boneage.prediction.shipped.open_run", lambda folder: run)
    monkeypatch.setattr(stress, "stress_run", lambda *_, **__: result)
    found, out, err = boneage("stress", "run")
    assert found == code
    assert "9 test images, median size 384 x 512 pixels" in out
    row = next(line for line in out.splitlines() if line.startswith("mirrored"))
    assert row.split()[-1] == ("passed" if passed else "FAILED")
    assert row.split()[1:3] == ["8", "1"]
    assert "+0.10 [-0.20, +0.40]" in row
    assert "-0.30 [-0.60, +0.10]" in row
    assert "0.5 or refused  passed" in out
    assert "refused unchanged: 2 images" in out
    assert f"results: {run.folder / 'stress-test.json'}" in err
    assert ("failed gates: mirrored" in err) is not passed
    found, out, _ = boneage("stress", "run", "--json")
    assert (found, json.loads(out)["n"]) == (code, 9)


def test_wrong_input_is_refused_before_keras(boneage, refused, tmp_path):
    refused(boneage("stress", "rsna-best"), "--data MANIFEST")
    refused(boneage("stress", "rsna-best", "--data", "absent.csv"), "there is no such file")
    (tmp_path / "run").mkdir()
    refused(boneage("stress", "run"), "this is not a finished run")
