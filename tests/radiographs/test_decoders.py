from __future__ import annotations

import numpy as np
import pytest

from boneage.radiographs import decoders
from boneage.radiographs.decoders import try_decoders


def test_every_decoder_works_here() -> None:
    pytest.importorskip("gdcm", reason='needs the extra "dicom"')
    assert try_decoders() == dict.fromkeys(("JPEG", "JPEG 2000", "JPEG-LS", "lossless JPEG"), "")


def test_a_decoder_that_refuses_or_gives_wrong_pixels_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syntax, frame = decoders._FRAMES["JPEG 2000"]
    damaged = frame[:80] + "A" * 24 + frame[104:]
    monkeypatch.setattr(decoders, "_FRAMES", {"JPEG 2000": (syntax, damaged)})
    found = try_decoders()
    assert found["JPEG"] == ""
    assert "damaged" in found["JPEG 2000"]
    monkeypatch.setattr(decoders, "read_radiograph", lambda file: np.zeros((16, 16), np.uint8))
    assert try_decoders()["JPEG"] == "it gives wrong pixels"


def test_without_gdcm_its_kinds_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "has_package", lambda package: False)
    assert set(try_decoders()) == {"JPEG", "JPEG 2000"}
