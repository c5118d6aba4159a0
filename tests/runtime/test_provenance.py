import json
import subprocess
import sys
from pathlib import Path

import pytest

from boneage.runtime.provenance import lacks_bfloat16, provenance, usable_cores


def test_provenance_names_versions_device_and_cores_in_json():
    values = json.loads(json.dumps(provenance()))
    assert values["versions"]["keras"].startswith("3.")
    assert values["device"]
    assert values["cores"] >= 1


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("model name: A\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu avx2 amx_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("flags\t\t: fpu avx2\n", True),
        ("processor: 0\n", False),  # not known
        (None, False),
    ],
)
def test_a_processor_without_bfloat16_is_known_by_its_flags(monkeypatch, text, lacks):
    def read_text(path):
        if text is None:
            raise OSError
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert lacks_bfloat16() is lacks


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({}, 8),
    ],
)
def test_the_cores_of_a_container_are_those_of_its_limit(monkeypatch, files, cores):
    def read_text(path):
        if path.name not in files:
            raise FileNotFoundError
        return files[path.name]

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8), raising=False)
    assert usable_cores() == cores


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_numpy_starts_no_more_threads_than_the_limit_of_cores():
    code = (
        "import os; from boneage.runtime.provenance import limit_cores; limit_cores(1); "
        "import numpy as np; np.ones((500, 500)) @ np.ones((500, 500)); "
        "print(len(os.listdir('/proc/self/task')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(found.stdout) == 1
