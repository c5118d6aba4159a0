from __future__ import annotations

import ctypes.util
import os
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from boneage.runtime import doctor
from boneage.runtime.doctor import Machine, isolated

A100 = "NVIDIA A100-SXM4-40GB, GPU-a1, 570.86.15, 40960, 40000, 8.0"
RTX_5090 = "NVIDIA GeForce RTX 5090, GPU-c3, 570.86.15, 32607, 31000, 12.0"
TRIAL = {"device": "GPU:0", "seconds": 0.001, "bfloat16_seconds": 0.0005, "cuda_libraries": []}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without a GPU, whose folders are new; its checks are made with what is set."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_HOST_DRIVER", tmp_path / "no-driver")
    for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"):
        monkeypatch.delenv(name, raising=False)
    return Machine(False, tmp_path / "runs", tmp_path / "cache")


def required(machine):
    return Machine(True, machine.runs, machine.cache, machine.trial)


def test_a_check_that_raises_or_hangs_is_a_fault():
    def broken():
        raise KeyError("/home/doe/x")

    found = isolated(broken, 5)
    assert (found.state, found.found) == ("fault", "this check itself failed (KeyError)")
    assert found.remedy
    wait = threading.Event()
    found = isolated(wait.wait, 0.05)
    wait.set()
    assert (found.state, found.found) == ("fault", "no answer within 0.05 seconds")
    assert found.remedy


def test_a_backend_that_is_not_installed_is_a_fault(machine, monkeypatch):
    assert doctor.check_backend(machine).state == "ok"
    monkeypatch.setenv("KERAS_BACKEND", "torche")
    found = doctor.check_backend(Machine(False, machine.runs, machine.cache))
    assert found.state == "fault"
    assert "torche" in found.found
    assert "KERAS_BACKEND" in found.remedy


def test_a_light_installation_answers_only_and_names_the_extra(machine, monkeypatch):
    monkeypatch.setattr(doctor, "has_package", lambda package: False)
    found = doctor.check_backend(machine)
    assert found.state == "ok"
    assert "answers with ONNX Runtime" in found.found
    assert 'pip install "boneage[train]"' in found.found
    assert doctor.check_backend(required(machine)).state == "fault"


def test_without_a_gpu_the_processor_is_right_unless_one_is_required(machine):
    machine.trial = {**TRIAL, "device": "CPU:0"}
    assert doctor.check_device(machine, "", "").state == "ok"
    assert doctor.check_driver(machine).state == "ok"
    found = doctor.check_device(required(machine), "", "")
    assert found.state == "fault"
    assert "--gpus all" in found.remedy
    assert doctor.check_driver(required(machine)).state == "fault"
    names = "compute", "library_path", "compiler", "cudnn", "gpu_memory"
    assert [getattr(doctor, f"check_{name}")(machine) for name in names] == [None] * 5


def test_a_container_without_the_gpu_of_its_host_is_a_warning(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_HOST_DRIVER", tmp_path)
    found = doctor.check_driver(machine)
    assert found.state == "warning"
    assert "--gpus all" in found.remedy


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_a_gpu_that_keras_does_not_use_is_a_warning_or_a_fault(machine, fake_nvidia):
    fake_nvidia(A100)
    machine.trial = TRIAL
    found = doctor.check_device(machine, "", "")
    assert found.state == "ok"
    assert "NVIDIA A100" in found.found
    machine.trial = {**TRIAL, "device": "cpu:0"}
    for each, state in ((machine, "warning"), (required(machine), "fault")):
        found = doctor.check_device(each, "", "libcudnn.so.9")
        assert found.state == state
        assert "although there is NVIDIA A100" in found.found
        assert "cuDNN" in found.remedy
        assert found.private == "libcudnn.so.9"


def test_the_remedy_for_an_unused_gpu_follows_from_the_cause(machine, fake_nvidia, monkeypatch):
    fake_nvidia(A100)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)  # no CUDA on this machine
    machine.trial = {**TRIAL, "device": "cpu:0"}
    assert "boneage[gpu]" in doctor.check_device(machine, "", "").remedy
    fake_nvidia(RTX_5090)
    newer = Machine(False, machine.runs, machine.cache, machine.trial)
    assert "boneage[jax-gpu]" in doctor.check_device(newer, "", "").remedy
    assert "boneage[gpu]" not in doctor.check_device(newer, "", "").remedy
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" in doctor.check_device(machine, "", "").remedy


def test_a_backend_that_can_t_compute_is_a_fault(machine):
    found = doctor.check_device(machine, "ImportError: no", "")
    assert (found.state, found.found) == ("fault", "Keras can't compute: ImportError: no")
    assert found.remedy


@pytest.mark.usefixtures("tensorflow_with_cuda")
@pytest.mark.parametrize(
    ("driver", "state"),
    [("525.60.11", "warning"), ("470.57.02", "warning"), ("525.60.13", "ok"), ("580.1", "ok")],
)
def test_the_driver_is_compared_with_cuda(machine, fake_nvidia, driver, state):
    fake_nvidia(A100.replace("570.86.15", driver))
    found = doctor.check_driver(machine)
    assert found.state == state
    assert f"driver {driver}" in found.found
    assert "CUDA 12.9.79 needs 525.60.13 or newer" in found.found
    if state == "warning":
        assert found.remedy == "Install a newer driver on the host, not in the image."
        assert doctor.check_driver(required(machine)).state == "fault"


def test_cuda_13_needs_a_newer_driver(machine, fake_nvidia, install):
    install("nvidia-cuda-runtime", {}, version="13.0.96")
    fake_nvidia(A100)
    assert doctor.check_driver(machine).state == "warning"


def test_a_driver_without_an_answer_is_named(machine, fake_nvidia):
    fake_nvidia(otherwise="echo 'Failed to initialize NVML: mismatch'; exit 18")
    found = doctor.check_driver(machine)
    assert (found.state, "Failed to initialize NVML" in found.found) == ("warning", True)
    assert "host" in found.remedy
    assert doctor.check_driver(required(machine)).state == "fault"


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_the_compute_capability_is_compared_with_the_backend(machine, fake_nvidia, monkeypatch):
    fake_nvidia(RTX_5090)
    found = doctor.check_compute(machine)
    assert found.state == "fault"
    assert "12.0" in found.found
    assert found.remedy == "Use the image gpu-jax, or KERAS_BACKEND=jax where JAX is installed."
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert doctor.check_compute(machine).state == "ok"


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_one_of_two_cards_without_kernels_is_a_warning(machine, fake_nvidia):
    fake_nvidia(A100, RTX_5090)
    found = doctor.check_compute(machine)
    assert found.state == "warning"
    assert "RTX 5090" in found.found
    assert found.private == "GPU-a1"


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_other_cuda_libraries_on_the_path_are_found(machine, fake_nvidia, monkeypatch, tmp_path):
    fake_nvidia(A100)
    assert doctor.check_library_path(machine).state == "ok"
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:")
    assert doctor.check_library_path(machine).state == "ok"
    (tmp_path / "libcudnn.so.8").touch()
    found = doctor.check_library_path(machine)
    assert (found.state, found.remedy) == ("warning", "Unset LD_LIBRARY_PATH.")
    assert found.private == str(tmp_path)
    assert str(tmp_path) not in found.found


@pytest.mark.usefixtures("tensorflow_with_cuda")
def test_ptxas_libdevice_and_cudnn_are_looked_for_in_the_wheels(
    machine, fake_nvidia, monkeypatch, tmp_path
):
    fake_nvidia(A100)
    with monkeypatch.context() as nowhere:
        nowhere.setattr(doctor, "_wheel_file", lambda pattern: None)
        assert doctor.check_compiler(machine).found == "ptxas and libdevice missing"
        assert doctor.check_cudnn(machine).found == "cuDNN missing"
    monkeypatch.syspath_prepend(tmp_path / "site")
    wheel = tmp_path / "site" / "nvidia" / "cuda_nvcc"
    (wheel / "bin").mkdir(parents=True)
    (wheel / "nvvm" / "libdevice").mkdir(parents=True)
    (wheel / "nvvm" / "libdevice" / "libdevice.10.bc").touch()
    ptxas = wheel / "bin" / "ptxas"
    ptxas.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.9, V12.9.86'\n")
    found = doctor.check_compiler(machine)
    assert (found.state, found.found) == ("warning", "ptxas does not run")
    ptxas.chmod(0o755)
    assert doctor.check_compiler(machine).found == "ptxas 12.9, libdevice"
    library = tmp_path / "site" / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
    library.parent.mkdir(parents=True)
    library.write_text("no library")
    found = doctor.check_cudnn(required(machine))
    assert (found.state, found.found) == ("fault", "cuDNN can't be loaded")


def test_who_holds_the_memory_of_a_card_is_named_in_private(machine, fake_nvidia):
    fake_nvidia(A100)
    assert doctor.check_gpu_memory(machine).state == "ok"
    holder = "4711, /home/doe/venv/bin/python, 30000"
    fake_nvidia(A100.replace("40000", "9000"), processes=[holder])
    found = doctor.check_gpu_memory(Machine(False, machine.runs, machine.cache))
    assert found.state == "warning"
    assert found.found == "8.8 of 40.0 GiB free; 1 process(es) hold it"
    assert found.private == "4711 python (30000 MiB)"
    fake_nvidia("NVIDIA A100 MIG 1g.5gb, MIG-1, 570.86.15, [N/A], [N/A], 8.0")
    assert doctor.check_gpu_memory(Machine(False, machine.runs, machine.cache)).state == "ok"


def test_two_copies_of_a_package_are_found(machine, install, tmp_path, monkeypatch):
    assert doctor.check_copies(machine).state == "ok"
    keras = next(path for path in sys.path if Path(path, "keras").is_dir())
    (tmp_path / "lib64").symlink_to(keras)
    monkeypatch.syspath_prepend(tmp_path / "lib64")
    assert doctor.check_copies(machine).state == "ok"
    install("keras", {}, version="3.1")
    found = doctor.check_copies(machine)
    assert (found.state, found.found) == ("warning", "keras is installed twice")
    install("tensorflow", {}, version="2.21.0")
    install("tensorflow-cpu", {}, version="2.21.0")
    assert doctor.check_copies(machine).found == "tensorflow and tensorflow-cpu: both"


def test_cuda_libraries_from_outside_the_wheels_are_found(machine):
    wheels = ["/venv/site-packages/nvidia/libcudnn.so.9", "/usr/dist-packages/x/libcudart.so.12"]
    machine.trial = {**TRIAL, "cuda_libraries": wheels}
    assert doctor.check_copies(machine).state == "ok"
    machine.trial["cuda_libraries"].append("/usr/local/cuda/lib64/libcublas.so.12")
    found = doctor.check_copies(machine)
    assert (found.state, found.found) == ("warning", "libcublas.so.12 not from the wheels")


def test_slow_bfloat16_names_the_setting_that_avoids_it(machine, monkeypatch):
    machine.trial = TRIAL
    assert doctor.check_bfloat16(machine).found == "2.0 times the rate of float32, measured"
    machine.trial = {**TRIAL, "bfloat16_seconds": 0.01}
    found = doctor.check_bfloat16(machine)
    assert found.state == "warning"
    assert "training.precision=float32" in found.remedy
    machine.trial = None
    monkeypatch.setattr(doctor, "lacks_bfloat16", lambda: True)
    assert doctor.check_bfloat16(machine).state == "warning"


def test_limits_of_a_container_are_seen(machine, fake_nvidia, monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert doctor.check_cores(machine).found.startswith("1 of 64 ")
    monkeypatch.setattr(doctor, "usable_memory", lambda: 2 * 10**9)
    assert doctor.check_memory(machine).state == "warning"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(64 * 2**20, 0, 10**12))
    assert doctor.check_shared_memory(machine).state == "ok"  # the workers don't use it
    fake_nvidia(A100, A100)
    found = doctor.check_shared_memory(Machine(False, machine.runs, machine.cache))
    assert (found.state, "--shm-size=1g" in found.remedy) == ("warning", True)


def test_a_full_disk_is_a_warning(machine, monkeypatch):
    monkeypatch.setenv("HOME", str(machine.cache.parent))
    assert doctor.check_disk(machine).private == "~/runs, ~/cache"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**9))
    assert doctor.check_disk(machine).state == "warning"


def test_a_folder_of_runs_that_can_t_be_written_is_a_fault(machine):
    assert doctor.check_rights(machine).state == "ok"
    machine.runs.touch()  # a file in its place: root may write anywhere else
    found = doctor.check_rights(machine)
    assert found.state == "fault"
    assert "runs" in found.found
    assert "--user" in found.remedy
    assert found.private == str(machine.runs)


def test_an_unknown_time_zone_is_a_warning(machine, monkeypatch):
    assert doctor.check_clock(machine).state == "ok"
    monkeypatch.setenv("TZ", "Europe/Nowhere")
    assert doctor.check_clock(machine).state == "warning"


def test_a_clock_before_the_release_is_a_warning(machine, monkeypatch):
    monkeypatch.setattr(doctor, "_RELEASED", doctor._RELEASED.replace(year=2099))
    assert doctor.check_clock(machine).state == "warning"
