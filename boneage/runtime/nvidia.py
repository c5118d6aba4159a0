"""The NVIDIA cards of this machine, by the driver's command `nvidia-smi`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from boneage.errors import Fault, InputError
from boneage.runtime.backend import keras_backend, uses_cuda
from boneage.runtime.provenance import package_versions

SECONDS = 10  # for an answer; the first one after a start of the system takes seconds
_FIELDS = ("name", "uuid", "driver_version", "memory.total", "memory.free", "compute_cap")
# CUDA of TensorFlow's wheels is older than the cards from 10.0 on: it can't compile for them, and
# brings no kernels for them (tensorflow/tensorflow#89272, #111958).
_FIRST_WITHOUT_KERNELS = (10, 0)
USE_JAX = "Use the image gpu-jax, or KERAS_BACKEND=jax where JAX is installed."


@dataclass(frozen=True)
class Card:
    """A card. What the driver does not say is None.

    Attributes:
        name: Its name, such as `NVIDIA A100-SXM4-40GB`.
        uuid: Its identifier.
        driver: Version of the driver, such as `570.86.15`.
        total: Memory, MiB.
        free: Free memory, MiB.
        compute: Compute capability, such as `(9, 0)`.
    """

    name: str
    uuid: str
    driver: str
    total: int | None
    free: int | None
    compute: tuple[int, ...] | None


@dataclass(frozen=True)
class Nvidia:
    """What `nvidia-smi` says.

    Attributes:
        cards: The cards; none where the command is not installed.
        problem: Why the command is installed and names no card; else empty.
    """

    cards: tuple[Card, ...] = ()
    problem: str = ""


def find_cards() -> Nvidia:
    """Ask the driver for the cards of this machine."""
    if shutil.which("nvidia-smi") is None:
        return Nvidia()
    try:
        rows = _query("gpu", _FIELDS)
    except OSError as error:
        if "not a valid field" not in str(error):
            return Nvidia(problem=str(error))
        try:
            rows = [[*row, ""] for row in _query("gpu", _FIELDS[:-1])]  # drivers before 510
        except OSError as again:
            return Nvidia(problem=str(again))
    return Nvidia(tuple(_card(row) for row in rows), "" if rows else "no devices were found")


def find_processes() -> list[tuple[str, str, str]]:
    """Return number, name and memory (MiB) of the processes that hold memory of a card."""
    try:
        rows = _query("compute-apps", ("pid", "process_name", "used_memory"))
    except OSError:
        return []
    return [(row[0], row[1], row[2]) for row in rows]


def visible_cards(cards: Sequence[Card]) -> tuple[Card, ...]:
    """Return the cards that `CUDA_VISIBLE_DEVICES` leaves.

    Numbers count in an order that CUDA chooses, so they leave all cards possible.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(cards)
    names = [name.strip() for name in chosen.split(",")]
    if names[0] in ("", "-1"):
        return ()
    named = (card for card in cards if card.uuid.startswith(tuple(filter(None, names))))
    return tuple(named) or tuple(cards)


def without_kernels(cards: Sequence[Card]) -> tuple[Card, ...]:
    """Return the cards that TensorFlow has no kernels for."""
    return tuple(card for card in cards if card.compute and card.compute >= _FIRST_WITHOUT_KERNELS)


def kernel_fault(cards: Sequence[Card]) -> Fault | None:
    """Return what is wrong if the backend has no kernels for any of the visible cards."""
    visible = visible_cards(cards)
    if not visible or len(without_kernels(visible)) < len(visible):
        return None
    if keras_backend() != "tensorflow" or not uses_cuda("tensorflow"):
        return None
    version = package_versions(("tensorflow",)).get("tensorflow", "")
    first = ".".join(map(str, _FIRST_WITHOUT_KERNELS))
    what = f"its compute capability is {compute_text(visible)}, and TensorFlow {version}".rstrip()
    return Fault(card_names(visible), f"{what} has no kernels for {first} and higher", USE_JAX)


def check_kernels() -> None:
    """Refuse a card that the backend has no kernels for, before anything is computed.

    Raises:
        InputError: The backend can't compute on any of the visible cards.
    """
    if shutil.which("nvidia-smi") is None or keras_backend() != "tensorflow":
        return
    if (fault := kernel_fault(find_cards().cards)) is not None:
        raise InputError(fault)


def card_names(cards: Sequence[Card]) -> str:
    """Return the names of the cards, such as `2 × NVIDIA A100`."""
    counts = Counter(card.name for card in cards)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())


def compute_text(cards: Sequence[Card]) -> str:
    """Return the compute capabilities of the cards, such as `9.0`."""
    known = sorted({card.compute for card in cards if card.compute})
    return " and ".join(".".join(map(str, each)) for each in known) or "unknown"


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version, such as `(525, 60, 13)`."""
    return tuple(map(int, re.findall(r"\d+", text)))


def _query(what: str, fields: Sequence[str]) -> list[list[str]]:
    """Return the rows of an answer.

    Raises:
        OSError: There is no answer. The text says why.
    """
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"it gave no answer within {SECONDS} seconds") from None
    except OSError as error:
        raise OSError(f"it can't be started ({error.strerror})") from None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        said = [*lines, *done.stderr.splitlines(), f"it ended with code {done.returncode}"]
        raise OSError(said[0].rstrip("."))
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    return [row for row in rows if len(row) == len(fields)]


def _card(row: Sequence[str]) -> Card:
    def number(text: str) -> int | None:  # MIG and small cards say [N/A]
        return int(text) if text.isdecimal() else None

    compute = version_numbers(row[5]) if re.fullmatch(r"\d+\.\d+", row[5]) else None
    return Card(row[0], row[1], row[2], number(row[3]), number(row[4]), compute)
