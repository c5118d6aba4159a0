"""Find out which processes train together, and which of them this one is.

`--hosts` and `--rank` say so, or the variables of the launcher: those of JAX (Kubeflow Trainer
sets them), of Keras, of Slurm's `srun`, or of torchrun. Or JAX has connected them already.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from boneage.errors import Fault, InputError

PORT = 29500  # where a launcher names a host without a port
ALONE = "none"  # value of --hosts that ignores the launcher's variables
_LAUNCHERS = (  # variables for the first process' address, the number of processes, the rank
    ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", ("JAX_PROCESS_ID",)),
    (
        "KERAS_DISTRIBUTION_JOB_ADDRESSES",
        "KERAS_DISTRIBUTION_NUM_PROCESSES",
        ("KERAS_DISTRIBUTION_PROCESS_ID",),
    ),
    ("MASTER_ADDR", "WORLD_SIZE", ("RANK", "JOB_COMPLETION_INDEX")),
)
_RANKS = ("JAX_PROCESS_ID", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "RANK")
_FIX = f"Use --hosts and --rank instead, or train alone with --hosts {ALONE}."


@dataclass(frozen=True)
class Hosts:
    """The processes that train together, one on each host.

    Attributes:
        coordinator: Address `host:port` of process 0, to which all processes connect; "" if they
            are connected.
        count: Number of processes.
        rank: Number of this process, from 0. Process 0 writes the run folder.
    """

    coordinator: str
    count: int
    rank: int

    @property
    def is_first(self) -> bool:
        """Return whether this is the process that writes."""
        return self.rank == 0


def find_hosts(
    addresses: str | None, rank: int | None, environment: Mapping[str, str]
) -> Hosts | None:
    """Find out which processes train together.

    Args:
        addresses: The value of `--hosts`: `host:port` of each process, separated by commas, or
            `"none"`. By default the connection decides that JAX has already, or the variables of
            Slurm, JAX, Keras or torchrun.
        rank: The value of `--rank`. By default the launcher's variable decides.
        environment: The environment variables of this process.

    Returns:
        The processes, or None if this process trains alone.

    Raises:
        InputError: An address or a rank is wrong or missing. All faults are reported.
    """
    if addresses == ALONE:
        return None
    if addresses is None:
        if rank is not None:
            raise InputError(Fault(f"--rank {rank}", "--hosts is missing", "Add --hosts."))
        return connected_hosts() or _from_slurm(environment) or _from_launcher(environment)
    names = [name.strip() for name in addresses.split(",")]
    faults = _address_faults(names)
    source = "--rank"
    if rank is None:
        source = next((name for name in _RANKS if name in environment), "")
        if source:
            rank = _number(environment, source)
        else:
            faults.append(Fault("--hosts", "--rank is missing", "Add --rank 0, 1, … on each host."))
    if rank is not None and not 0 <= rank < len(names):
        fix = f"Number the hosts from 0 to {len(names) - 1}, in the order of --hosts."
        faults.append(Fault(f"{source} {rank}", f"there are {len(names)} hosts", fix))
    if faults or rank is None:
        raise InputError(faults)
    return Hosts(names[0], len(names), rank) if len(names) > 1 else None


def connected_hosts() -> Hosts | None:
    """Return the processes that JAX has connected already, as Ray's JaxTrainer does, or None."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1:
        return None
    return Hosts("", jax.process_count(), jax.process_index())


def _address_faults(names: Sequence[str]) -> list[Fault]:
    faults = []
    for index, name in enumerate(names):
        host, _, port = name.rpartition(":")
        if not host:
            what = f"{name!r} has no port"
        elif not port.isdigit() or not 0 < int(port) < 2**16:
            what = f"{port!r} is not a port"
        elif name in names[:index]:
            what = f"{name} occurs twice"
        else:
            continue
        fix = f"Write for example --hosts node1:{PORT},node2:{PORT}, the same on every host."
        faults.append(Fault("--hosts", what, fix))
    return faults


def _from_slurm(environment: Mapping[str, str]) -> Hosts | None:
    # The variables of the step count, because a batch script of several tasks is one process.
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if not environment.keys() >= set(names):
        return None
    job, count, rank = (_number(environment, name) for name in (names[0], *names[2:]))
    # The first name of a list such as gpu[01-03,7],login1. The port is JAX's own choice.
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", environment[names[1]]).split(",")[0]
    return _checked(Hosts(f"{first}:{61440 + job % 4096}", count, rank), names[3])


def _from_launcher(environment: Mapping[str, str]) -> Hosts | None:
    for address_name, count_name, rank_names in _LAUNCHERS:
        if address_name not in environment:
            continue
        count = _number(environment, count_name)
        if count < 2:
            return None
        rank_name = next((name for name in rank_names if name in environment), rank_names[0])
        address = environment[address_name].split(",")[0]  # Keras has one for each process
        if not re.search(r":\d+$", address):
            address = f"{address}:{environment.get('MASTER_PORT', PORT)}"
        return _checked(Hosts(address, count, _number(environment, rank_name)), rank_name)
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name)
    if value is None or not value.isdigit():
        what = "it is not set" if value is None else f"{value!r} is not a whole number"
        raise InputError(Fault(name, what, _FIX))
    return int(value)


def _checked(hosts: Hosts, name: str) -> Hosts | None:
    if hosts.rank >= hosts.count:
        what = f"there are {hosts.count} processes, numbered from 0"
        raise InputError(Fault(f"{name} {hosts.rank}", what, _FIX))
    return hosts if hosts.count > 1 else None
