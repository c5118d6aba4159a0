from __future__ import annotations

import json

import pytest

from boneage.runtime.backend import cuda_version, keras_backend, uses_cuda


@pytest.fixture(autouse=True)
def _no_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)


def test_the_backend_is_that_of_the_environment_or_of_the_file(tmp_path, monkeypatch):
    assert keras_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    assert keras_backend() == "jax"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert keras_backend() == "torch"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_file_leaves_the_default(tmp_path, text):
    (tmp_path / "keras.json").write_text(text)
    assert keras_backend() == "tensorflow"


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_the_wheels_of_cuda_are_found():
    assert cuda_version() == "12.9.79"
    assert uses_cuda("tensorflow")


def test_jax_computes_with_cuda_if_its_plug_in_is_installed(install):
    assert not uses_cuda("jax")
    install("jax-cuda12-plugin", {}, version="0.10.2")
    assert uses_cuda("jax")
