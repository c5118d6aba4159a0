"""The devices that train one model together: those of this host, or of several.

Through `keras.distribution` on JAX: every device has a copy of the model and its rows of each
batch. Mean, gradient and BatchNorm's statistics are those of the whole batch, so a training gives
what it gives on one device. (TensorFlow's strategies do not: MirroredStrategy normalises each
device's rows by themselves and can't take a last batch with fewer rows than devices;
MultiWorkerMirroredStrategy does not work under Keras 3, see keras-team/keras#20585.)
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from boneage.errors import Fault, InputError
from boneage.pipeline.generator import DataGenerator, last_batch_rows, shard_for_devices
from boneage.training.distributed.heartbeat import (
    BEAT_SECONDS,
    PATIENCE_SECONDS,
    Watch,
    end_process,
)
from boneage.training.distributed.hosts import Hosts
from boneage.training.stop_signals import Stop

JOIN_SECONDS = 600  # until the last host has to be there: its image may have to be pulled first
_JAX_PATIENCE_SECONDS = 100  # of JAX's own watch, which ends a process without a word of ours
_HOUR = 3_600_000  # milliseconds
# With these words begins what JAX raises where a collective operation broke off.
_BROKEN_OFF = ("UNKNOWN", "UNAVAILABLE", "INTERNAL", "ABORTED", "DEADLINE_EXCEEDED", "CANCELLED")


class Group:
    """What trains one model together, and this process' place in it.

    Attributes:
        hosts: The processes; None for this one alone.
        devices: How many in all.
    """

    def __init__(
        self,
        hosts: Hosts | None = None,
        places: tuple[int, int, int] = (0, 1, 1),
        watch: Watch | None = None,
        board: Any = None,
    ) -> None:
        """Takes the first of our devices, how many are ours, and how many there are."""
        self.hosts = hosts
        self._first, self._own, self.devices = places
        self._watch = watch
        self._board = board
        self._waits = itertools.count()  # every meeting of the processes has a name of its own

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder: one of them does."""
        return self.hosts is None or self.hosts.first

    def check_batch(self, size: int) -> None:
        """Sees that every device gets as many images of a batch.

        Raises:
            InputError: The batch can't be divided.
        """
        if size % self.devices:
            raise InputError(_indivisible(size, self.devices))

    def divide(
        self, model: keras.Model, training: DataGenerator, validation: DataGenerator
    ) -> tuple[DataGenerator, DataGenerator]:
        """Gives this process its rows of every batch; the model is compiled.

        Raises:
            InputError: The batch can't be divided.
        """
        if self.devices == 1:
            return training, validation
        self.check_batch(training.batch_size)
        place = (self._first, self._own, self.devices)
        for name, whole in (("train_step", training), ("test_step", validation)):
            rows, padding = last_batch_rows(shard_for_devices(whole, *place))
            if padding:
                setattr(model, name, _without_padding(getattr(model, name), rows, rows + padding))
        return shard_for_devices(training, *place), shard_for_devices(validation, *place)

    def stops(self, stop: Stop) -> bool:
        """Tells whether to stop now; every process asks after every batch and epoch."""
        if self._watch is None:
            return stop.asked is not None
        if not self._watch.stops(stop.asked is not None):
            return False
        stop.asked = stop.asked or signal.SIGTERM  # another process was asked
        return True

    def wait(self) -> None:
        """Waits until every process has come here, however long that takes."""
        if self._board is not None:
            self._board.wait_at_barrier(f"boneage/{next(self._waits)}", 24 * _HOUR)

    def check_same(self, name: str, value: str, fix: str) -> None:
        """Holds what must be the same in every process against the first one's.

        Raises:
            InputError: It is another here.
        """
        if self.hosts is None or self._board is None:
            return
        key = f"boneage/same/{next(self._waits)}"
        if self.hosts.first:
            self._board.key_value_set(key, value)
        first = self._board.blocking_key_value_get(key, 24 * _HOUR)
        if value != first:
            here, there = (self.hosts.name(rank) for rank in (self.hosts.rank, 0))
            raise InputError(
                Fault(here, f"{name} is {value}", fix, expected=f"{first}, as {there} has")
            )
        self.wait()


def accelerator() -> str | None:
    """The name of the GPU that Keras computes on; None without one."""
    if not any(name.startswith(("gpu", "cuda")) for name in keras.distribution.list_devices()):
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "gpu"
    return ", ".join(names.split("\n")).strip(", ")


@contextlib.contextmanager
def joined(hosts: Hosts | None, run: Path) -> Iterator[Group]:
    """Brings all devices together for as long as a model is trained on them.

    It must come before anything is computed. Without `hosts` they are this host's own: all that
    JAX sees, and one on TensorFlow.

    Args:
        hosts: The processes that train together; None for this one alone.
        run: The folder to resume from, for messages.

    Raises:
        InputError: Keras doesn't run on JAX, the others did not come, or one of them is lost.
    """
    on_jax = keras.backend.backend() == "jax"
    if hosts is None:
        with _distributed() if on_jax else contextlib.nullcontext((0, 1, 1)) as places:
            yield Group(None, places)
        return
    if not on_jax:
        raise InputError(_not_on_jax(hosts))
    with _told_before_abort(lambda: _not_met(hosts)):
        board = _join(hosts)
    watch = Watch(board, hosts, f"See its own messages. To go on: boneage train --resume {run}.")
    watch.start()
    gone = watch.fault_of(0, "it can't be reached any more")
    with (
        _told_before_abort(lambda: watch.lost(0) or gone),
        _failures_told(watch),
        _distributed() as places,
    ):
        group = Group(hosts, places, watch, board)
        try:
            yield group
        except BaseException:
            if watch.stopped:  # all of them at the same batch
                _leave(group, watch)
            raise
        _leave(group, watch)


@contextlib.contextmanager
def _distributed() -> Iterator[tuple[int, int, int]]:
    """Lets Keras compute on every device; gives the first of ours, how many, and of how many."""
    import jax

    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) == 1:
        yield 0, 1, 1
        return
    ours = [place for place, one in enumerate(devices) if one.process_index == jax.process_index()]
    before = keras.distribution.distribution()
    mesh = keras.distribution.DeviceMesh((len(devices),), ["batch"], devices)
    together = keras.distribution.DataParallel(device_mesh=mesh, auto_shard_dataset=False)
    keras.distribution.set_distribution(together)
    try:
        yield ours[0], len(ours), len(devices)
    finally:
        keras.distribution.set_distribution(before)


def _join(hosts: Hosts) -> Any:
    """Meets the others; returns what all of them read and write."""
    import jax
    from jax._src.distributed import global_state

    # It would take SIGTERM for itself; `Watch` brings about what it does.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        # As keras.distribution.initialize does it, with times of ours.
        jax.distributed.initialize(
            hosts.coordinator,
            hosts.count,
            hosts.rank,
            cluster_detection_method="deactivate",
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=_JAX_PATIENCE_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(_not_met(hosts)) from error
    return global_state.client


def _not_met(hosts: Hosts) -> Fault:
    return Fault(
        hosts.coordinator,
        f"not all {hosts.count} processes met there",
        "Do all hosts reach that address, and is that port free?",
        expected=f"each of them within {JOIN_SECONDS} seconds, with the same --hosts",
    )


def _leave(group: Group, watch: Watch) -> None:
    import jax

    group.wait()
    watch.close()
    jax.distributed.shutdown()


@contextlib.contextmanager
def _failures_told(watch: Watch) -> Iterator[None]:
    """Tells the others when this process fails, and the user when another one did."""
    try:
        yield
    except BaseException as error:
        if watch.closed:  # all have left
            raise
        fault = None
        if _is_broken_off(error):
            fault = watch.lost(PATIENCE_SECONDS + 5)
        if fault is None:
            watch.tell_failure(_in_short(error))
            time.sleep(3 * BEAT_SECONDS)  # until they have read it
        _abandon()
        if fault is not None:
            raise InputError(fault) from error
        raise


def _in_short(error: BaseException) -> str:
    if isinstance(error, InputError):
        return f"it ended ({error.faults[0].where}: {error.faults[0].what})"
    return f"it ended ({' '.join([type(error).__name__, *str(error).splitlines()[:1]])})"


def _is_broken_off(error: BaseException) -> bool:
    known = isinstance(error, (RuntimeError, ValueError))
    return known and str(error).lstrip().startswith(_BROKEN_OFF)


def _abandon() -> None:
    """Leaves without waiting for the others at the end of this process: they won't come."""
    from jax._src.distributed import global_state

    for part in (global_state.client, global_state.service):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))  # its end would wait, and then abort
    global_state.client = global_state.service = None


@contextlib.contextmanager
def _told_before_abort(fault: Callable[[], Fault]) -> Iterator[None]:
    """Says what happened where JAX ends the process itself: process 0 is gone, with its board.

    JAX then aborts from a thread of its own, with no way to hear of it but the signal. It is raised
    in that thread, so a handler may do what a handler of other signals may not.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: end_process(fault()))
    system = ctypes.CDLL(None)
    system.signal(signal.SIGABRT, handler)
    try:
        yield
    except BaseException:
        # What is wrong will be said. Until then that thread sleeps: Python may be ending.
        system.signal(signal.SIGABRT, system.pause)
        raise
    else:
        system.signal(signal.SIGABRT, None)


def _without_padding(step: Callable[..., Any], rows: int, padded: int) -> Callable[..., Any]:
    """A step that takes the rows away which only make the last batch divisible."""

    def own_step(state: Any, data: Any) -> Any:
        batch = keras.tree.map_structure(
            lambda array: array[:rows] if array.shape[0] == padded else array, data
        )
        return step(state, batch)

    return own_step


def _indivisible(size: int, devices: int) -> Fault:
    lower, upper = size // devices * devices, -(-size // devices) * devices
    choices = " or ".join(str(choice) for choice in (lower, upper) if choice)
    return Fault(
        "training.batch_size",
        f"{size} images can't be divided among {devices} devices",
        f"Train with --set training.batch_size={choices}, or on fewer devices "
        "(CUDA_VISIBLE_DEVICES=0 leaves one).",
        expected=f"a multiple of {devices}",
    )


def _not_on_jax(hosts: Hosts) -> Fault:
    return Fault(
        f"{hosts.count} hosts",
        f"Keras runs on {keras.backend.backend()}",
        "Begin the command with KERAS_BACKEND=jax (pip install 'jax<0.11').",
        expected="Keras on JAX, which alone trains on several hosts",
    )
