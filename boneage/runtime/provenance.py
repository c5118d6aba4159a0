"""Record how a result was made: commit, versions, device and digests."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from boneage import __version__
from boneage.runtime.files import LARGEST_FILE, open_regular, read_text

_PACKAGES = (
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "torch",
    "keras",
    "numpy",
    "pandas",
    "opencv-python-headless",
    "albumentations",
)

# A limit of a container, such as that of `docker run --cpus 2`: microseconds, and of how many.
_CORE_LIMITS = (
    (Path("/sys/fs/cgroup/cpu.max"),),
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)

_most_cores: int | None = None


def file_digest(path: Path) -> str:
    """Return the sha256 of a regular file, in hexadecimal.

    Raises:
        InputError: The file can't be read, or it is a folder, a pipe or a device.
    """
    with open_regular(path, LARGEST_FILE) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance() -> dict[str, Any]:
    """Return how a result is made, apart from recipe and data, as JSON values.

    `commit` is None outside a git checkout, unless `BONEAGE_COMMIT` is set, as in the Docker image.
    `device` is the processor. A training on a GPU replaces it.
    """
    commit, dirty = _commit()
    return {
        "boneage": __version__,
        "commit": commit,
        "uncommitted_changes": dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": processor(),
        "cores": usable_cores(),
        "versions": package_versions(_PACKAGES),
    }


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of some packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def licence() -> str:
    """Return the text of boneage's licence, which the package itself brings.

    Raises:
        InputError: The installed package has none.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        found = metadata.distribution("boneage").read_text("licenses/LICENSE")
        if found is not None:
            return found
    return read_text(Path(__file__).parents[2] / "LICENSE")  # of a checkout that is not installed


def limit_cores(cores: int) -> None:
    """Let this process use that many cores at most, because others of ours use the rest.

    Call it before numpy is imported. Its threads wait for each other in a busy loop, which takes
    the cores from the other processes.
    """
    global _most_cores
    _most_cores = cores
    os.environ.update({"OMP_NUM_THREADS": str(cores), "OPENBLAS_NUM_THREADS": str(cores)})


def usable_cores() -> int:
    """Return the number of processor cores that this process or container may use."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    for paths in _CORE_LIMITS:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no file, or "max"
            quota, period = " ".join(path.read_text() for path in paths).split()
            if int(quota) > 0:  # -1 is no limit
                cores = min(cores, math.ceil(int(quota) / int(period)))
    return cores if _most_cores is None else min(cores, _most_cores)


def processor() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def lacks_bfloat16() -> bool:
    """Return whether this processor is known to emulate bfloat16 arithmetic, which is slow."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return bool(flags) and not set(flags.split()) & {"avx512_bf16", "amx_bf16", "bf16"}


def command_line() -> str:
    """Return the command of this process, with the name of the program without its folder."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _commit() -> tuple[str | None, bool | None]:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return os.environ.get("BONEAGE_COMMIT") or None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):  # git is missing, or the checkout is damaged
        return None, None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
