"""What a process and all its descendants use, and how they are stopped: read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def tree(process_id: int) -> list[int]:
    """Returns the ids of a process and all its descendants that live, parents first."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _status_fields(int(entry.name))
            if fields and fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [process_id]
    for parent in found:  # it grows while it is gone through
        found.extend(children.get(parent, ()))
    return found


def cpu_seconds(process_id: int) -> float:
    """Returns the CPU seconds of a tree so far, those of its dead and waited-for children too."""
    total = 0
    for member in tree(process_id):
        fields = _status_fields(member)
        if fields:
            # utime, stime, cutime and cstime: the 14th to 17th field of the whole line
            total += sum(map(int, fields[11:15]))
    return total / _TICKS


def memory_mb(process_id: int) -> dict[str, float]:
    """Returns the memory of a tree in MB (2**20 bytes), pages of mapped files left out.

    Returns:
        `anonymous_mb` and `shared_mb`: RssAnon and RssShmem summed over the tree, where a page
        that several processes hold is counted for each of them; `proportional_mb`: both together
        with such a page counted once, as far as the kernel says (else their plain sum).
    """
    anonymous = shared = proportional = 0
    for member in tree(process_id):
        status = _kilobytes(_PROC / str(member) / "status")
        own = status.get("RssAnon", 0), status.get("RssShmem", 0)
        anonymous, shared = anonymous + own[0], shared + own[1]
        once = _kilobytes(_PROC / str(member) / "smaps_rollup")
        proportional += (
            once["Pss_Anon"] + once["Pss_Shmem"] if "Pss_Shmem" in once else own[0] + own[1]
        )
    return {
        "anonymous_mb": anonymous / 1024,
        "shared_mb": shared / 1024,
        "proportional_mb": proportional / 1024,
    }


def send(process_id: int, number: signal.Signals) -> None:
    """Sends a signal to a whole tree: to parents first, but children first to let it go on."""
    members = tree(process_id)
    for member in reversed(members) if number == signal.SIGCONT else members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, number)


def _status_fields(process_id: int) -> list[str]:
    """The fields of /proc/ID/stat after the name: state, parent, ...; none when it is gone."""
    try:
        line = (_PROC / str(process_id) / "stat").read_text()
    except OSError:
        return []
    return line.rpartition(")")[2].split()


def _kilobytes(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:  # it has ended, or the kernel does not tell
        return {}
    values = {}
    for line in lines:
        key, _, value = line.partition(":")
        if value.endswith("kB"):
            values[key] = int(value.split()[0])
    return values
