import os
import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_writes_nothing_and_its_telemetry_is_off(tmp_path):
    network = next((Path(__file__).parents[2] / "boneage").rglob("*.onnx"))
    script = (
        "import sys; from boneage.runtime.onnx import import_onnxruntime as get; "
        "get().InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    )
    # A continuous integration switches the telemetry off, too.
    variables = {name: value for name, value in os.environ.items() if name != "CI"}
    folders = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR")}
    subprocess.run(
        [sys.executable, "-c", script, str(network)], env=variables | folders, check=True
    )
    assert not list(tmp_path.iterdir())
