"""Checks of this machine, in the order in which `boneage doctor` makes them.

No text holds a path, nor the name of a host or of a user: people paste it into bug reports. Such
names are in `Finding.private`, which only the terminal shows.
"""

from __future__ import annotations

import ctypes
import datetime
import importlib.util
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import zoneinfo
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from boneage import __version__
from boneage.errors import InputError
from boneage.runtime import nvidia
from boneage.runtime.backend import cuda_version, keras_backend, uses_cuda
from boneage.runtime.extras import has_package, install_command
from boneage.runtime.files import check_folder_writable, home_folder
from boneage.runtime.machine import usable_memory
from boneage.runtime.nvidia import Card, Nvidia, version_numbers
from boneage.runtime.provenance import lacks_bfloat16, package_versions, processor, usable_cores

OK, WARNING, FAULT = "ok", "warning", "fault"
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX"}
SHARED_MEMORY = Path("/dev/shm")
_HOST_DRIVER = Path("/proc/driver/nvidia/version")  # seen in containers, too
_GIVE_GPU = (
    "Install the NVIDIA driver on the host. Start a container with --gpus all (podman: --device "
    "nvidia.com/gpu=all), which needs the NVIDIA Container Toolkit on the host."
)
_INSTALL_GPU = 'Use the image gpu, or run pip install "boneage[gpu]" (JAX: "boneage[jax-gpu]").'
_INSTALL_JAX = (
    'Use the image gpu-jax, or run pip install "boneage[jax-gpu]" and set KERAS_BACKEND=jax.'
)
_FLOAT32 = "For recipes that compute in bfloat16, add --set training.precision=float32."
_DRIVERS = {12: "525.60.13", 13: "580"}  # the oldest one on Linux for each release of CUDA
_LEAST_MEMORY = 4e9  # bytes; a training of small images takes 1.5e9
_LEAST_DISK = 5e9  # bytes; a store of the RSNA set at 500 pixels takes 3.2e9
_LEAST_SHARED = 1e9  # bytes; NVIDIA's advice for NCCL, which joins several cards
_FREE_SHARE = 0.75  # of a card's memory: what JAX takes at its start
_RELEASED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
# Packages of which only one may be installed, because they write the same files.
_RIVALS = (
    ("tensorflow", "tensorflow-cpu", "tf-nightly"),
    ("keras", "keras-nightly"),
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    ("jax-cuda12-plugin", "jax-cuda13-plugin"),
    ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
    *(("jax",), ("jaxlib",), ("numpy",)),
)


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        state: `ok`, `warning` or `fault`.
        found: What was found: a phrase.
        remedy: What to do: whole sentences. Empty for `ok`.
        private: Paths and names, for the terminal only.
    """

    state: str
    found: str
    remedy: str = ""
    private: str = ""


@dataclass
class Machine:
    """What several checks need.

    Attributes:
        require_gpu: Whether a GPU that is not used is a fault; else it is a warning.
        runs: The folder of runs.
        cache: The folder of stores and phantoms.
        trial: What the trial of the backend printed; None before it, or if it failed.
    """

    require_gpu: bool
    runs: Path
    cache: Path
    trial: dict[str, Any] | None = None

    @cached_property
    def nvidia(self) -> Nvidia:
        """What the driver says."""
        return nvidia.find_cards()

    @property
    def cards(self) -> tuple[Card, ...]:
        """The cards of this machine."""
        return self.nvidia.cards

    @cached_property
    def backend(self) -> str:
        """Name of the backend of Keras."""
        return keras_backend()

    @cached_property
    def uses_cuda(self) -> bool:
        """Whether there are cards, and the installed backend computes on them."""
        return bool(self.cards) and has_package("keras") and uses_cuda(self.backend)

    @property
    def install_gpu(self) -> str:
        """How to install what computes on the cards."""
        return _INSTALL_JAX if nvidia.without_kernels(self.cards) else _INSTALL_GPU

    def without_gpu(self, found: str, remedy: str, private: str = "") -> Finding:
        """Return the finding of something without which Keras does not use the GPU."""
        return Finding(FAULT if self.require_gpu else WARNING, found, remedy, private)


def isolated(check: Callable[[], Finding | None], seconds: float) -> Finding | None:
    """Return what a check finds. One that raises or hangs is a fault."""
    answers: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(check())
        except BaseException as error:  # noqa: BLE001 - whatever a check raises
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        found = answers.get(timeout=seconds)
    except queue.Empty:
        remedy = "A disk or a driver gives no answer. Restart it, then repeat this command."
        return Finding(FAULT, f"no answer within {seconds:g} seconds", remedy)
    if isinstance(found, BaseException):
        what = f"this check itself failed ({type(found).__name__})"
        remedy = "Report this with the output of boneage doctor --json."
        return Finding(FAULT, what, remedy, str(found))
    return found


def check_python(_: Machine) -> Finding:
    """Name the versions of boneage and Python, and the platform."""
    where = f"{platform.system()} {platform.machine()}"
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        where += ", in a container"
    return Finding(OK, f"boneage {__version__}, Python {platform.python_version()}, {where}")


def check_backend(machine: Machine) -> Finding:
    """Name the backend that Keras is set to, and whether it is installed."""
    versions = package_versions(("keras", "jax", "tensorflow-cpu", "tensorflow", "onnxruntime"))
    onnx = f"ONNX Runtime {versions.get('onnxruntime', '(missing)')}"
    if not has_package("keras"):
        found = f"no Keras: this installation answers with {onnx}, but does not train"
        remedy = f"To train: {install_command('keras')} (Python 3.11, 3.12 or 3.13)."
        if machine.require_gpu:
            return Finding(FAULT, found, remedy)
        return Finding(OK, f"{found}. {remedy.rstrip('.')}")
    versions["tensorflow"] = versions.get("tensorflow") or versions.get("tensorflow-cpu", "")
    backend = machine.backend
    name = NAMES.get(backend, backend)
    if backend not in ("tensorflow", "jax", "torch") or importlib.util.find_spec(backend) is None:
        found = f"Keras is set to the backend {name}, which is not installed"
        fix = "Set KERAS_BACKEND to tensorflow or jax, or correct the file keras.json."
        return Finding(FAULT, found, fix)
    other = "jax" if backend == "tensorflow" else "tensorflow"
    text = f"Keras {versions['keras']} on {name} {versions.get(backend, '')}".rstrip()
    if versions.get(other):
        text += f" ({NAMES[other]} {versions[other]} is installed, too)"
    return Finding(OK, f"{text}; {onnx}")


def check_device(machine: Machine, error: str, private: str) -> Finding:
    """Judge the trial of the backend.

    Args:
        machine: The machine, with the trial.
        error: Why there is no trial; else empty.
        private: What the backend printed.
    """
    trial, cards = machine.trial, nvidia.visible_cards(machine.cards)
    if trial is None:
        remedy = "Install boneage again in an empty environment, or use an image."
        return Finding(FAULT, f"Keras can't compute: {error}", remedy, private)
    rate = f"one small convolution takes {1e3 * trial['seconds']:.3g} ms"
    if any(word in trial["device"].lower() for word in ("gpu", "cuda")):
        return Finding(OK, f"Keras computes on {nvidia.card_names(cards) or 'a GPU'}: {rate}")
    found = f"Keras computes on the processor ({processor()})"
    if not machine.cards:
        if machine.require_gpu:
            fix = "See driver below." if machine.nvidia.problem else _GIVE_GPU
            return Finding(FAULT, found, fix)
        return Finding(OK, f"{found}: {rate}")
    found = f"{found}, although there is {nvidia.card_names(machine.cards)}"
    if not cards:
        fix = "CUDA_VISIBLE_DEVICES hides the GPU: unset it."
    elif not machine.uses_cuda:
        fix = machine.install_gpu
    else:
        fix = "See the checks of driver, LD_LIBRARY_PATH and cuDNN below."
    return machine.without_gpu(found, fix, private)


def check_driver(machine: Machine) -> Finding:
    """Compare the driver with the CUDA of the installed wheels."""
    found, cards = machine.nvidia, machine.cards
    if found.problem:
        fix = "Restart the host. If that does not help, install its NVIDIA driver again."
        return machine.without_gpu(f"nvidia-smi: {found.problem}", fix)
    if not cards:
        if _HOST_DRIVER.exists():
            return machine.without_gpu("the host has an NVIDIA driver, but gives no GPU", _GIVE_GPU)
        if machine.require_gpu:
            return Finding(FAULT, "no NVIDIA GPU (there is no nvidia-smi)", _GIVE_GPU)
        return Finding(OK, "no NVIDIA GPU (there is no nvidia-smi), so its checks are left out")
    text = f"{nvidia.card_names(cards)}, driver {cards[0].driver}"
    cuda = cuda_version()
    oldest = _DRIVERS.get(version_numbers(cuda or "0")[0])
    if cuda is None or oldest is None:
        return Finding(OK, f"{text}; no CUDA wheels to compare it with")
    needs = f"CUDA {cuda} needs {oldest} or newer"
    if version_numbers(cards[0].driver) < version_numbers(oldest):
        fix = "Install a newer driver on the host, not in the image."
        return machine.without_gpu(f"{text}, but {needs}", fix)
    return Finding(OK, f"{text}; {needs}")


def check_compute(machine: Machine) -> Finding | None:
    """Compare the compute capability with the kernels of the backend."""
    if not machine.cards:
        return None
    if (fault := nvidia.kernel_fault(machine.cards)) is not None:
        return Finding(FAULT, f"{fault.where}: {fault.what}", fault.fix)
    text = nvidia.compute_text(machine.cards)
    if machine.backend == "tensorflow" and machine.uses_cuda:
        visible = nvidia.visible_cards(machine.cards)
        if new := nvidia.without_kernels(visible):
            found = f"{text}: TensorFlow has no kernels for {nvidia.card_names(new)}"
            fix = "Set CUDA_VISIBLE_DEVICES to the identifier of another card, or use JAX."
            private = ", ".join(card.uuid for card in visible if card not in new)
            return Finding(WARNING, found, fix, private)
    return Finding(OK, text)


def check_library_path(machine: Machine) -> Finding | None:
    """Find CUDA libraries that come before those of the wheels."""
    if not machine.cards:
        return None
    folders = [Path(each) for each in os.environ.get("LD_LIBRARY_PATH", "").split(":") if each]
    names = ("libcudart.so*", "libcublas.so*", "libcudnn.so*", "libnccl.so*")
    holding = [each for each in folders if any(any(each.glob(name)) for name in names)]
    if holding and machine.uses_cuda:
        found = "it names a folder with other CUDA libraries, which are loaded first"
        return Finding(WARNING, found, "Unset LD_LIBRARY_PATH.", ", ".join(map(str, holding)))
    return Finding(OK, "set, without CUDA libraries" if folders else "not set")


def check_compiler(machine: Machine) -> Finding | None:
    """Find ptxas and libdevice, with which XLA compiles."""
    if not machine.uses_cuda:
        return None
    assembler, library = _wheel_file("bin/ptxas"), _wheel_file("nvvm/libdevice/libdevice.10.bc")
    found = {"ptxas": assembler, "libdevice": library}
    if missing := [name for name, path in found.items() if path is None]:
        return machine.without_gpu(f"{' and '.join(missing)} missing", machine.install_gpu)
    try:
        command = [str(assembler), "--version"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return machine.without_gpu("ptxas does not run", machine.install_gpu, str(error))
    release = text.stdout.partition("release ")[2].partition(",")[0]
    return Finding(OK, f"ptxas {release or '(version unknown)'}, libdevice")


def check_cudnn(machine: Machine) -> Finding | None:
    """Load cuDNN and ask for its version."""
    if not machine.uses_cuda:
        return None
    path = _wheel_file("lib/libcudnn.so.*")
    if path is None:
        return machine.without_gpu("cuDNN missing", machine.install_gpu)
    try:
        number = int(ctypes.CDLL(str(path)).cudnnGetVersion())
    except (OSError, AttributeError) as error:
        return machine.without_gpu("cuDNN can't be loaded", machine.install_gpu, str(error))
    major, rest = divmod(number, 10_000)
    return Finding(OK, f"cuDNN {major}.{rest // 100}.{rest % 100}")


def check_gpu_memory(machine: Machine) -> Finding | None:
    """Report the free memory of each card and who holds the rest."""
    cards = nvidia.visible_cards(machine.cards)
    if not cards:
        return None
    known = [(card.free, card.total) for card in cards if card.free is not None and card.total]
    if not known:
        return Finding(OK, "the driver does not say how much is free (as for a part of a card)")
    text = ", ".join(f"{free / 1024:.1f} of {total / 1024:.1f} GiB free" for free, total in known)
    if all(free >= _FREE_SHARE * (total or 0) for free, total in known):
        return Finding(OK, text)
    holders = nvidia.find_processes()
    who = f"{len(holders)} process(es) hold it" if holders else "who holds it is not visible here"
    fix = (
        "End those processes, or choose another card with CUDA_VISIBLE_DEVICES. Otherwise set "
        "TF_FORCE_GPU_ALLOW_GROWTH=true (JAX: XLA_PYTHON_CLIENT_PREALLOCATE=false)."
    )
    private = ", ".join(f"{pid} {Path(name).name} ({mib} MiB)" for pid, name, mib in holders)
    return Finding(WARNING, f"{text}; {who}", fix, private)


def check_copies(machine: Machine) -> Finding:
    """Find packages that are installed twice, and CUDA libraries from outside the wheels."""
    places: dict[str, set[str]] = defaultdict(set)
    for each in metadata.distributions():
        # Fedora's environments name one folder twice: lib64 is a link to lib.
        place = str(Path(str(each.locate_file(""))).resolve())
        places[(each.name or "").lower().replace("_", "-")].add(place)
    for rivals in _RIVALS:
        copies = [(name, place) for name in rivals for place in sorted(places.get(name, ()))]
        if len(copies) > 1:
            names = " and ".join(dict.fromkeys(name for name, _ in copies))
            found = f"{names} is installed twice" if " and " not in names else f"{names}: both"
            fix = "Uninstall all of them, then install one: they write the same files."
            return Finding(WARNING, found, fix, ", ".join(place for _, place in copies))
    loaded = (machine.trial or {}).get("cuda_libraries", [])
    others = [path for path in loaded if not re.search("(site|dist)-packages", path)]
    if others:
        found = f"{', '.join(Path(path).name for path in others)} not from the wheels"
        fix = "Unset LD_LIBRARY_PATH, and start without conda or modules of CUDA."
        return Finding(WARNING, found, fix, ", ".join(others))
    return Finding(OK, "no package is installed twice")


def check_bfloat16(machine: Machine) -> Finding | None:
    """Say whether bfloat16 is faster than float32 here."""
    trial, cards = machine.trial, nvidia.visible_cards(machine.cards)
    if not has_package("keras"):
        return None
    if trial is not None and trial["bfloat16_seconds"] is not None:
        ratio = trial["seconds"] / trial["bfloat16_seconds"]
        text = f"{ratio:.1f} times the rate of float32, measured"
        return Finding(OK, text) if ratio > 0.5 else Finding(WARNING, text, _FLOAT32)
    old = [card for card in cards if card.compute and card.compute < (8, 0)]
    if (machine.uses_cuda and old) or (not machine.uses_cuda and lacks_bfloat16()) or trial:
        return Finding(WARNING, "this device has no bfloat16 of its own", _FLOAT32)
    return Finding(OK, "this device has it, but it was not measured")


def check_cores(_: Machine) -> Finding:
    """Count the cores that this process may use."""
    cores, all_cores = usable_cores(), os.cpu_count() or 1
    limit = f" of {all_cores} (limit of this container or process)" if cores < all_cores else ""
    return Finding(OK, f"{cores}{limit}")


def check_memory(_: Machine) -> Finding:
    """Measure the memory that this machine or container may use."""
    memory = usable_memory()
    if memory is None:
        return Finding(OK, "unknown on this system")
    text = f"{memory / 1e9:.1f} GB"
    if memory < _LEAST_MEMORY:
        fix = "Training needs 4 GB. Raise the limit of the container (docker run --memory)."
        return Finding(WARNING, text, fix)
    return Finding(OK, text)


def check_shared_memory(machine: Machine) -> Finding | None:
    """Measure `/dev/shm`, through which several cards exchange their gradients."""
    if not SHARED_MEMORY.is_dir():
        return None
    size = shutil.disk_usage(SHARED_MEMORY).total
    text = f"{decimal(size)} in /dev/shm"
    if size < _LEAST_SHARED and len(nvidia.visible_cards(machine.cards)) > 1:
        fix = "Several GPUs need 1 GB. Start the container with --shm-size=1g."
        return Finding(WARNING, text, fix)
    return Finding(OK, text)


def check_disk(machine: Machine) -> Finding:
    """Measure the free space for runs and for stores."""
    free = {}
    for name, folder in {"runs": machine.runs, "cache": machine.cache}.items():
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free[name] = shutil.disk_usage(nearest).free
    text = ", ".join(f"{decimal(size)} free for {name}" for name, size in free.items())
    private = f"{_shown(machine.runs)}, {_shown(machine.cache)}"
    if min(free.values()) < _LEAST_DISK:
        fix = "Free 5 GB, or set BONEAGE_RUNS and BONEAGE_CACHE to folders on another disk."
        return Finding(WARNING, text, fix, private)
    return Finding(OK, text, private=private)


def check_rights(machine: Machine) -> Finding:
    """Try to write where runs and stores go."""
    who = f"user {os.getuid()}, group {os.getgid()}" if hasattr(os, "getuid") else "this user"
    folders = {"runs": machine.runs, "cache": machine.cache}
    refused = []
    for name, folder in folders.items():
        try:
            check_folder_writable(folder)
        except InputError:
            refused.append(name)
    if refused:
        found = f"{who} may not write to the folder of {' and '.join(refused)}"
        fix = (
            "Set BONEAGE_RUNS and BONEAGE_CACHE to folders of your own. For a container, make the "
            'folder first, mount it with -v, and add --user "$(id -u):$(id -g)".'
        )
        return Finding(FAULT, found, fix, ", ".join(_shown(folders[name]) for name in refused))
    return Finding(OK, f"{who} may write runs and stores")


def check_clock(_: Machine) -> Finding:
    """Say what the clock says, which DICOM answers hold."""
    now = datetime.datetime.now().astimezone()
    text = f"{now:%Y-%m-%d %H:%M}, {now.tzname()} (UTC{now:%z})"
    if not _RELEASED <= now < _RELEASED.replace(year=2100):
        fix = "Set the clock of the host: DICOM answers hold its date."
        return Finding(WARNING, text, fix)
    zone = os.environ.get("TZ", "").lstrip(":")
    if "/" in zone and not Path(zone).exists():
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            fix = "The time zone in TZ is not known here. Set another one, or install tzdata."
            return Finding(WARNING, text, fix)
    return Finding(OK, text)


def check_network(_: Machine) -> Finding:
    """Say that nothing here needs a network."""
    return Finding(OK, "not needed: training and answers make no connection")


def _shown(folder: Path) -> str:
    home = home_folder()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)


def _wheel_file(pattern: str) -> Path | None:
    """Return a file of one of NVIDIA's wheels."""
    folders = [Path(each) / "nvidia" for each in sys.path]
    return next((path for folder in folders for path in folder.glob(f"*/{pattern}")), None)
