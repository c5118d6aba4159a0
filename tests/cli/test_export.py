from typer.testing import CliRunner

from boneage.cli.app import app
from boneage.errors import InputError


def refusal(*arguments: str) -> str:
    error = CliRunner().invoke(app, ["export", *arguments]).exception
    assert isinstance(error, InputError)
    return str(error)


def test_what_is_wrong_is_named_before_keras_is_imported(tmp_path, monkeypatch):
    assert "Choose one of onnx, litert, openvino" in refusal("rsna-best", "--format", "torch")
    assert "Choose float16 or float32" in refusal("rsna-best", "--storage", "int8")
    assert "not a finished run" in refusal(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rsna-best-onnx").touch()
    assert "rsna-best-onnx: it exists already" in refusal("rsna-best")


def test_parity_is_printed(tmp_path, monkeypatch):
    def export_run(run, out, format_name, **_):
        out.mkdir()
        parity = {"images": 200, "of": "mine.csv", "months": 0.01234, "batch_months": 0.0001}
        about = {"format": format_name, "file": "model.onnx", "weights": "float16"}
        return {"export": {**about, "parity": parity}}

    monkeypatch.setattr("boneage.evaluation.export.export_run", export_run)
    out = tmp_path / "light"
    done = CliRunner().invoke(app, ["export", "rsna-best", "--out", str(out)])
    assert done.exit_code == 0
    assert "parity on 200 images (mine.csv): at most 0.0123 months from Keras" in done.output
    assert f"boneage predict {out} hand.png --sex F" in done.output


def test_the_folder_for_the_hub_is_written_and_its_upload_named(tmp_path):
    assert "--storage: the format hub has no such option" in refusal(
        "rsna-best", "--format", "hub", "--storage", "float16"
    )
    out = tmp_path / "up"
    done = CliRunner().invoke(app, ["export", "rsna-best-1", "--format", "hub", "--out", str(out)])
    assert done.exit_code == 0
    assert f"hf upload OWNER/rsna-best-1 {out} ." in done.output
    assert "terms of its training data" not in done.output
    assert (out / "README.md").read_text().startswith("---\nlibrary_name: keras\n")
