from __future__ import annotations

import stat
from pathlib import Path

import pytest

from boneage.training.free_memory import host_bytes, largest_device_bytes

GB = 10**9


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    """A `/proc` with 20 GB available, and an empty folder for control groups."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "meminfo").write_text("MemTotal: 24 kB\nMemAvailable:   20000000 kB\nSwapFree: 0 kB\n")
    return proc, groups


def limit(group: Path, *, most: int | str, used: int, files: int = 0, version: int = 2) -> None:
    group.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for name, value in zip(names, (most, used), strict=True):
        (group / name).write_text(f"{value}\n")
    prefix = "total_" if version == 1 else ""
    (group / "memory.stat").write_text(f"anon 5\n{prefix}inactive_file {files}\n")


def test_without_limits_it_is_what_the_machine_has_and_its_swap(machine: tuple[Path, Path]) -> None:
    assert host_bytes(*machine) == 20_000_000 * 1024
    (machine[0] / "meminfo").write_text("MemAvailable: 2000 kB\nSwapFree: 500 kB\n")
    assert host_bytes(*machine) == 2500 * 1024


def test_a_control_group_of_version_2_limits_it(machine: tuple[Path, Path]) -> None:
    proc, groups = machine
    (proc / "self/cgroup").write_text("0::/job/step\n")
    limit(groups / "job", most=8 * GB, used=3 * GB, files=1 * GB)
    limit(groups / "job/step", most="max", used=1 * GB)
    assert host_bytes(proc, groups) == 6 * GB  # of the group above; pages of files are given up


def test_a_control_group_of_version_1_limits_it(machine: tuple[Path, Path]) -> None:
    proc, groups = machine
    (proc / "self/cgroup").write_text("5:devices:/\n4:cpu,memory:/job\n0::/\n")
    limit(groups / "memory/job", most=4 * GB, used=3 * GB, files=GB // 2, version=1)
    limit(groups / "memory", most=2**63 - 4096, used=3 * GB, version=1)
    assert host_bytes(proc, groups) == GB + GB // 2


def test_a_container_that_is_told_its_outer_path_finds_its_own_limit(
    machine: tuple[Path, Path],
) -> None:
    proc, groups = machine
    (proc / "self/cgroup").write_text("0::/docker/f00\n")
    limit(groups, most=2 * GB, used=GB)
    assert host_bytes(proc, groups) == GB


def test_a_limit_of_the_address_space_counts(
    machine: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    proc, groups = machine
    (proc / "self/status").write_text("Name:\tpython\nVmSize:\t 1000000 kB\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * 1_024_000_000, 0))
    assert host_bytes(proc, groups) == 2 * 1_024_000_000


def test_elsewhere_than_on_linux_it_is_not_known(tmp_path: Path) -> None:
    assert host_bytes(tmp_path, tmp_path) is None


def test_the_largest_card_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert largest_device_bytes() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 16384\necho 81920\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert largest_device_bytes() == 80 * 2**30
    program.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert largest_device_bytes() is None
