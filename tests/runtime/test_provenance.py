import json
from pathlib import Path

import pytest

from boneage.runtime.provenance import lacks_bfloat16, provenance


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
