from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from boneage.cli import doctor as verb
from boneage.prediction import shipped
from boneage.runtime.doctor import Finding, check_device

ROOT = Path(__file__).parents[2]
ORDER = ["python", "backend", "device", "driver"]
RTX_5090 = "NVIDIA GeForce RTX 5090, GPU-c3, 570.86.15, 32607, 31000, 12.0"
CPU = {"device": "CPU:0", "seconds": 0.1, "bfloat16_seconds": 0.05, "cuda_libraries": []}


@pytest.fixture
def no_trial(monkeypatch):
    """Keras is not started: it would have computed on the processor."""

    def judge(machine):
        machine.trial = CPU
        return check_device(machine, "", "")

    monkeypatch.setattr(verb, "_try_device", judge)


def checks(out):
    return {each["name"]: each for each in json.loads(out)["checks"]}


@pytest.mark.usefixtures("no_trial")
def test_the_json_holds_no_path_and_no_name_of_host_or_user(boneage, tmp_path, monkeypatch):
    monkeypatch.setenv("BONEAGE_RUNS", str(tmp_path / "file" / "runs"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    (tmp_path / "file").touch()
    code, out, error = boneage("doctor", "--json")
    assert (code, error) == (2, "")
    answer = json.loads(out)
    assert answer["ok"] is False
    assert [each["name"] for each in answer["checks"]][:4] == ORDER
    for each in answer["checks"]:
        assert set(each) == {"name", "state", "found", "remedy"}
        assert each["state"] in ("ok", "warning", "fault")
        assert bool(each["remedy"]) == (each["state"] != "ok"), each
    assert checks(out)["write rights"]["state"] == "fault"
    assert not re.search(r"/(?!dev/shm\b)\w+/|\\\\", out)
    names = {socket.gethostname(), os.environ.get("USER", ""), Path.home().name}
    words = set(re.findall(r"[\w.-]+", out)) - {"root", "user", "runs"}
    assert str(tmp_path) not in out
    assert not names & words


@pytest.mark.usefixtures("no_trial")
def test_the_table_says_states_in_words_and_names_each_remedy(boneage, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Nowhere")
    code, out, error = boneage("doctor")
    assert (code, error) == (0, "")
    assert re.search(r"^warning  clock ", out, re.M)
    assert re.search(r"^ {30}-> The time zone in TZ is not known", out, re.M)
    assert re.search(r"\nNo faults, \d+ warnings? in \d+ checks\. This machine can train\.\n$", out)
    assert all(len(line) <= 100 for line in out.splitlines())
    assert "\x1b" not in out


@pytest.mark.usefixtures("no_trial")
def test_a_required_gpu_that_is_missing_is_a_fault(boneage, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = boneage("doctor", "--require-gpu", "--json")
    assert code == 2
    faults = {name for name, each in checks(out).items() if each["state"] == "fault"}
    assert faults == {"device", "driver"}


@pytest.mark.usefixtures("no_trial")
def test_a_check_that_raises_leaves_the_others(boneage, monkeypatch):
    def broken(machine):
        raise RuntimeError(f"in {Path.home()}")

    monkeypatch.setattr(verb, "_try_decoders", broken)
    code, out, _ = boneage("doctor", "--json")
    assert code == 2
    assert checks(out)["decoders"]["found"] == "this check itself failed (RuntimeError)"
    assert checks(out)["network"]["state"] == "ok"


@pytest.mark.usefixtures("no_trial")
def test_a_shipped_model_that_has_changed_is_a_fault(boneage, tmp_path, monkeypatch):
    models = tmp_path / "prediction" / "shipped_models"
    shutil.copytree(ROOT / "boneage" / "prediction" / "shipped_models", models)
    monkeypatch.setattr(shipped, "__file__", str(models.parent / "shipped.py"))
    assert checks(boneage("doctor", "--json")[1])["shipped models"]["state"] == "ok"
    with (models / "rsna-best" / "model.onnx").open("ab") as file:
        file.write(b"x")
    (models / "rsna-best-1" / "best.keras").unlink()
    code, out, _ = boneage("doctor", "--json")
    assert code == 2
    found = checks(out)["shipped models"]
    assert found["found"] == (
        "rsna-best: model.onnx is missing or changed; rsna-best-1: best.keras is missing or changed"
    )
    assert found["remedy"] == "Install boneage again."


@pytest.mark.usefixtures("no_trial")
def test_imagenet_weights_of_another_digest_are_a_fault(boneage, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert checks(boneage("doctor", "--json")[1])["ImageNet weights"]["state"] == "ok"
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "convnext_tiny_notop.h5").write_bytes(b"x")
    code, out, _ = boneage("doctor", "--json")
    assert code == 2
    assert checks(out)["ImageNet weights"]["found"].startswith("convnext_tiny_notop.h5: damaged")


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_a_card_without_kernels_is_a_fault_and_nothing_is_computed_on_it(boneage, fake_nvidia):
    fake_nvidia(RTX_5090)
    code, out, _ = boneage("doctor", "--json")
    assert code == 2
    found = checks(out)
    assert found["device"]["found"] == "not tried on this GPU"
    assert found["compute capability"]["state"] == "fault"
    fix = "Use the image gpu-jax, or KERAS_BACKEND=jax where JAX is installed."
    assert found["compute capability"]["remedy"] == fix


@pytest.mark.slow
def test_train_and_evaluate_refuse_a_card_without_kernels_before_keras_starts(
    cohort, tiny_recipe, fake_nvidia, tensorflow_with_cuda, run_together, tmp_path
):
    folder = fake_nvidia(RTX_5090)
    environment = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([tensorflow_with_cuda, str(ROOT)])
    environment["BONEAGE_CACHE"] = str(tmp_path / "cache")
    train = ["train", str(tiny_recipe), "--data", str(cohort), "--out", "run"]
    evaluate = ["evaluate", "rsna-best-1", "--data", str(cohort), "--out", "scores"]
    for code, text, loaded in run_together([train, evaluate], tmp_path, **environment):
        assert (code, loaded) == (2, [])
        assert "error: NVIDIA GeForce RTX 5090: its compute capability is 12.0" in text
        assert text.endswith(
            "Use the image gpu-jax, or KERAS_BACKEND=jax where JAX is installed.\n"
        )
    assert not (tmp_path / "run").exists()


def test_what_a_backend_prints_loses_its_paths():
    text = "ImportError: /home/doe/venv/lib/x.so.9: cannot open, see ~/a/b and C:\\doe\\x\\y.txt"
    assert verb.without_paths(text) == (
        "ImportError: .../x.so.9: cannot open, see .../b and .../y.txt"
    )


@pytest.mark.slow
def test_keras_really_computes_here(boneage):
    found = Finding("", "")
    for name, each in verb._findings(require_gpu=False):
        if name == "device":
            found = each
        if name == "bfloat16":
            assert "measured" in each.found
            break
    assert found.state == "ok"
    assert "Keras computes on" in found.found


@pytest.mark.slow
def test_a_backend_that_crashes_is_a_fault(boneage, install, monkeypatch):
    install("jax-broken", {}, {"jax": "raise ImportError('no /opt/x/libcudnn.so.9 here')"})
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    code, out, _ = boneage("doctor", "--json")
    assert code == 2
    assert checks(out)["device"]["found"] == (
        "Keras can't compute: ImportError: no .../libcudnn.so.9 here"
    )
