"""Train one model on all devices of this host, or of several hosts (Keras on JAX).

Every device has a copy of the model and its rows of each batch. The mean, the gradient and
BatchNorm's statistics are those of the whole batch. So a training gives the result of one device.

TensorFlow's strategies do not. MirroredStrategy normalises the rows of each device separately, and
fails on a last batch with fewer rows than devices. MultiWorkerMirroredStrategy does not work under
Keras 3 (keras-team/keras#20585).
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from boneage.errors import Fault, InputError
from boneage.pipeline.generator import DataGenerator, last_batch_counts, shard_for_devices
from boneage.runtime.nvidia import card_names, find_cards, visible_cards
from boneage.training.hosts import Hosts, connected_hosts
from boneage.training.stop_signals import Stop, Terminated

_CONNECT_SECONDS = 600  # for the last host, which may have to pull its image first
_SHUTDOWN_SECONDS = 20  # of waiting for the others at the end, before the process ends alone
# JAX's messages about a broken collective operation begin with one of these.
_BROKEN = ("UNKNOWN", "UNAVAILABLE", "INTERNAL", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED")


class DeviceGroup:
    """The devices that train one model together, and this process' part of them.

    Args:
        hosts: The processes, or None for this one alone.
        first: Index of this process' first device.
        own: Number of this process' devices.
        devices: Number of all devices.
    """

    def __init__(
        self, hosts: Hosts | None = None, first: int = 0, own: int = 1, devices: int = 1
    ) -> None:
        self.hosts = hosts
        self._first, self._own, self.devices = first, own, devices

    @property
    def writes(self) -> bool:
        """Return whether this process writes the run folder."""
        return self.hosts is None or self.hosts.is_first

    def check_batch_size(self, size: int) -> None:
        """Check that every device gets the same number of images of a batch.

        Raises:
            InputError: The number of devices does not divide the batch size.
        """
        if not size % self.devices:
            return
        lower, upper = (
            size // self.devices * self.devices,
            -(-size // self.devices) * self.devices,
        )
        choices = " or ".join(str(choice) for choice in (lower, upper) if choice)
        raise InputError(
            Fault(
                "training.batch_size",
                f"{size} images can't be divided among {self.devices} devices",
                f"Train with --set training.batch_size={choices}. Or train on fewer devices: "
                "CUDA_VISIBLE_DEVICES=0 leaves one.",
            )
        )

    def shard(
        self, model: keras.Model, training: DataGenerator, validation: DataGenerator
    ) -> tuple[DataGenerator, DataGenerator]:
        """Return this process' rows of every batch, and prepare the compiled model for them."""
        if self.devices == 1:
            return training, validation
        part = (self._first, self._own, self.devices)
        for name, whole in (("train_step", training), ("test_step", validation)):
            rows, padding = last_batch_counts(shard_for_devices(whole, *part))
            if padding:
                step = without_padding(getattr(model, name), rows, rows + padding)
                setattr(model, name, step)
        return shard_for_devices(training, *part), shard_for_devices(validation, *part)

    def should_stop(self, stop: Stop) -> bool:
        """Return whether any process was asked to stop. Every process must call this."""
        if self.hosts is None:
            return stop.asked is not None
        signals = self._gather(np.int32(stop.asked or 0))
        # A signal that came meanwhile is not in it. The other processes don't know it yet.
        if not signals.any():
            return False
        if stop.asked is None:
            stop.asked = signal.Signals(int(signals.max()))
        return True

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.hosts is not None:
            self._gather(np.int32(0))

    def check_same(self, name: str, value: str) -> None:
        """Check that a value is the same in every process.

        Raises:
            InputError: A process has another value. Every process raises it.
        """
        if self.hosts is None:
            return
        digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
        digests = self._gather(digest)
        others = np.flatnonzero((digests != digests[0]).any(axis=1))
        if len(others):
            raise InputError(
                Fault(
                    f"process {others[0]} of {self.hosts.count}",
                    f"its {name} is not that of process 0",
                    "Start every host with the same command, files and shared run folder.",
                )
            )

    @staticmethod
    def _gather(value: Any) -> np.ndarray:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(value))


def without_padding(step: Callable[..., Any], rows: int, padded: int) -> Callable[..., Any]:
    """Return a step that removes the rows which make the last batch divisible."""

    def own_step(state: Any, data: Any) -> Any:
        batch = keras.tree.map_structure(
            lambda array: array[:rows] if array.shape[0] == padded else array, data
        )
        return step(state, batch)

    return own_step


def accelerator() -> str | None:
    """Return the name of the GPU that Keras computes on, or None."""
    if not any(name.startswith(("gpu", "cuda")) for name in keras.distribution.list_devices()):
        return None
    return card_names(visible_cards(find_cards().cards)) or "gpu"


@contextlib.contextmanager
def joined(hosts: Hosts | None, run: Path) -> Iterator[DeviceGroup]:
    """Connect the processes and let Keras compute on all their devices.

    It must come before any computation. On TensorFlow the group is one device. Processes that
    have called `jax.distributed.initialize` already are used as they are.

    Args:
        hosts: The processes that train together, or None.
        run: The run folder, for messages.

    Raises:
        InputError: Keras does not run on JAX, a process did not connect, or one was lost.
    """
    if keras.backend.backend() != "jax":
        if hosts is not None:
            raise InputError(_not_on_jax(hosts))
        yield DeviceGroup()
        return
    connected = connected_hosts()
    if hosts is not None and connected is None:
        _connect(hosts)
    hosts = connected or hosts
    try:
        with _all_devices() as devices:
            yield DeviceGroup(hosts, *devices)
    except (RuntimeError, ValueError) as error:  # JAX raises either
        if hosts is None or not str(error).lstrip().startswith(_BROKEN):
            raise
        raise InputError(_lost(hosts, error, run)) from error
    except Terminated:  # all processes stop after the same batch, so all of them come here
        _disconnect(hosts, is_ours=connected is None)
        raise
    # After another error JAX disconnects when Python ends, once the message is printed. If the
    # other processes do not disconnect too, it aborts this one after _SHUTDOWN_SECONDS.
    _disconnect(hosts, is_ours=connected is None)


def _connect(hosts: Hosts) -> None:
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `Stop`
    try:
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.count,
            hosts.rank,
            cluster_detection_method="deactivate",
            initialization_timeout=_CONNECT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            Fault(
                hosts.coordinator,
                f"not all {hosts.count} processes connected within {_CONNECT_SECONDS} seconds",
                "Check that every host reaches this address and has the same --hosts.",
            )
        ) from error


def _disconnect(hosts: Hosts | None, *, is_ours: bool) -> None:
    """Wait for the other processes and disconnect, if the connection was made here."""
    import jax

    if hosts is not None and is_ours:
        jax.distributed.shutdown()


@contextlib.contextmanager
def _all_devices() -> Iterator[tuple[int, int, int]]:
    """Let Keras compute on every device. Yields index and number of ours, and of all devices."""
    import jax

    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) == 1:
        yield 0, 1, 1
        return
    ours = [i for i, each in enumerate(devices) if each.process_index == jax.process_index()]
    before = keras.distribution.distribution()
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    together = keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    keras.distribution.set_distribution(together)
    try:
        yield ours[0], len(ours), len(devices)
    finally:
        keras.distribution.set_distribution(before)


def _lost(hosts: Hosts, error: Exception, run: Path) -> Fault:
    return Fault(
        f"process {hosts.rank} of {hosts.count}",
        f"the connection to another process broke: {str(error).splitlines()[0]}",
        f"See that process' messages. To continue: boneage train --resume {run}.",
    )


def _not_on_jax(hosts: Hosts) -> Fault:
    return Fault(
        f"{hosts.count} hosts",
        f"Keras runs on {keras.backend.backend()}, which trains on one device only",
        "Start the command with KERAS_BACKEND=jax (pip install 'boneage[jax]').",
    )
