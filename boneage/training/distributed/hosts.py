"""Which processes train together, and which of them this one is.

Told on the command line, or by what started the processes: Slurm's `srun`, an indexed Job of
Kubernetes, or anything that sets `MASTER_ADDR` and its kin as torchrun does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from boneage.errors import Fault, InputError

PORT = 29500  # where a launcher names a host and no port
ALONE = "none"  # --hosts none: one process, whatever started it
# What launchers call the number of a process, in the order of trust.
_RANKS = ("SLURM_PROCID", "JOB_COMPLETION_INDEX", "RANK")
_FORM = "host:port,host:port, the same list on every host, and --rank from 0"
# Slurm's own jobs differ by their number, so two on one node don't meet at a port.
_SLURM_PORTS = (61440, 4096)


@dataclass(frozen=True)
class Hosts:
    """Processes that train together, one on each host.

    Attributes:
        coordinator: `host:port` of process 0, where all of them meet.
        count: How many there are.
        rank: Which of them this one is, from 0. Process 0 alone writes the run folder.
        names: `host:port` or name of each where they are known; else empty.
    """

    coordinator: str
    count: int
    rank: int
    names: tuple[str, ...] = ()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """What a message calls one of the processes."""
        where = self.names[rank] if self.names else self.coordinator if rank == 0 else ""
        return f"process {rank} ({where})" if where else f"process {rank}"


def find_hosts(
    addresses: str | None, rank: int | None, environment: Mapping[str, str]
) -> Hosts | None:
    """Tells which processes train together.

    Args:
        addresses: What `--hosts` says: `host:port` of each process, with commas; or `"none"`.
        rank: What `--rank` says; without it the launcher's own number counts.
        environment: Variables of this process.

    Returns:
        None where this process trains alone.

    Raises:
        InputError: An address has no port or stands twice, the rank is missing or none of them.
    """
    if addresses == ALONE:
        return None
    if addresses is None:
        if rank is not None:
            raise InputError(
                Fault(
                    f"--rank {rank}", "there are no --hosts beside it", "Give both.", expected=_FORM
                )
            )
        return _from_slurm(environment) or _from_master(environment)
    names = tuple(name.strip() for name in addresses.split(","))
    faults = _wrong_addresses(names)
    where = "--rank"
    if rank is None:
        told = next((name for name in _RANKS if name in environment), None)
        if told is None:
            faults.append(
                Fault(
                    "--hosts",
                    "there is no --rank beside it",
                    "Number each host's own.",
                    expected=_FORM,
                )
            )
        else:
            where, rank = told, _number(environment, told)
    if rank is not None and not 0 <= rank < len(names):
        faults.append(
            Fault(
                f"{where} {rank}",
                f"there are {len(names)} hosts",
                "Number them in the order of --hosts.",
                expected=f"0 to {len(names) - 1}, another on every host",
            )
        )
    if faults or rank is None:
        raise InputError(faults)
    return Hosts(names[0], len(names), rank, names) if len(names) > 1 else None


def _wrong_addresses(names: tuple[str, ...]) -> list[Fault]:
    faults = []
    for place, name in enumerate(names):
        host, colon, port = name.rpartition(":")
        if not colon or not host:
            what = f"{name!r} has no port"
        elif not port.isdigit() or not 0 < int(port) < 2**16:
            what = f"{port!r} is no port"
        elif name in names[:place]:
            what = f"{name} stands in it twice"
        else:
            continue
        faults.append(
            Fault("--hosts", what, f"As in --hosts node1:{PORT},node2:{PORT}.", expected=_FORM)
        )
    return faults


def _from_slurm(environment: Mapping[str, str]) -> Hosts | None:
    # Of the step, not of the job: a batch script is one process, however many tasks the job has.
    if "SLURM_STEP_NODELIST" not in environment or "SLURM_PROCID" not in environment:
        return None
    count = _number(environment, "SLURM_STEP_NUM_TASKS") if _given(environment) else 1
    if count < 2:
        return None
    rank = _number(environment, "SLURM_PROCID")
    first, ports = _SLURM_PORTS
    port = first + _number(environment, "SLURM_JOB_ID") % ports
    nodes = node_names(environment["SLURM_STEP_NODELIST"])
    names = tuple(nodes) if len(nodes) == count else ()
    return Hosts(f"{nodes[0]}:{port}", count, _within(rank, count, "SLURM_PROCID"), names)


def _given(environment: Mapping[str, str]) -> bool:
    return "SLURM_STEP_NUM_TASKS" in environment and "SLURM_JOB_ID" in environment


def node_names(nodes: str) -> list[str]:
    """Returns the names in one of Slurm's lists, as in `gpu[01-03,7],login1`."""
    names = []
    for prefix, ranges, suffix in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?([^,\[\]]*)", nodes):
        for part in ranges.split(",") if ranges else [""]:
            low, dash, high = part.partition("-")
            for number in range(int(low), int(high) + 1) if dash else [part]:
                names.append(f"{prefix}{str(number).zfill(len(low))}{suffix}")
    return names


def _from_master(environment: Mapping[str, str]) -> Hosts | None:
    if not {"MASTER_ADDR", "WORLD_SIZE"} <= environment.keys():
        return None
    count = _number(environment, "WORLD_SIZE")
    if count < 2:
        return None
    told = next((name for name in _RANKS[::-1] if name in environment), "RANK")
    rank = _within(_number(environment, told), count, told)
    port = environment.get("MASTER_PORT", str(PORT))
    return Hosts(f"{environment['MASTER_ADDR']}:{port}", count, rank)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if value is None or not value.isdigit():
        what = "it is not set" if value is None else f"it is {value!r}"
        raise InputError(Fault(name, what, _ESCAPE, expected="a whole number from the launcher"))
    return int(value)


def _within(rank: int, count: int, name: str) -> int:
    if rank >= count:
        raise InputError(
            Fault(
                f"{name} {rank}",
                f"there are {count} processes",
                _ESCAPE,
                expected=f"0 to {count - 1}",
            )
        )
    return rank


_ESCAPE = f"Say it yourself with --hosts and --rank, or train alone with --hosts {ALONE}."
