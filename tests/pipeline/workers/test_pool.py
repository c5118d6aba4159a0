"""Batches made in processes: the same, in any order, and nothing left when something breaks."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import psutil
import pytest

from boneage.datasets.manifest import write_manifest
from boneage.errors import InputError
from boneage.pipeline.generator import DataGenerator, shard_for_devices
from boneage.pipeline.store import prepare
from boneage.pipeline.workers.pool import PrefetchPlan
from boneage.recipe import Augmentation, Framing

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX"),
    pytest.mark.slow,
]

COUNT, SIZE = 64, 24
SECONDS = 60.0  # until an error must be raised, and until processes must have ended


def make(**changes: Any) -> DataGenerator:
    arguments: dict[str, Any] = {
        "images": np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8),
        "gender": np.arange(COUNT) % 2,
        "age_months": np.arange(COUNT),
        "batch_size": 4,
        "shuffle": True,
        "augmentation": Augmentation(),
        "workers": 2,
        "use_multiprocessing": True,
    }
    return DataGenerator(**{**arguments, **changes})


def as_bytes(batch: Any) -> bytes:
    (image, gender), age_months = batch
    return b"".join(np.asarray(array).tobytes() for array in (image, gender, age_months))


def expected(epochs: range) -> list[bytes]:
    with make(use_multiprocessing=False) as plain:
        return [as_bytes(next(plain)) for _ in range(len(epochs) * len(plain))]


def wait_for(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


def are_gone(processes: list[int]) -> bool:
    def is_gone(process: int) -> bool:
        try:
            # A killed process is a zombie until its parent has asked for its status.
            return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(map(is_gone, processes))


def started(generator: DataGenerator) -> list[int]:
    """Ask for batches until the processes make them, and return the ids of the processes."""

    def all_ready() -> bool:
        generator[0]
        return len(generator.process_ids) == generator.processes

    assert wait_for(all_ready, 60)
    return generator.process_ids


@pytest.fixture(scope="module")
def running() -> Iterator[DataGenerator]:
    with make() as generator:
        started(generator)
        yield generator


def test_batches_are_the_same_in_order_over_epochs_and_when_they_are_kept(
    running: DataGenerator,
) -> None:
    running.epoch = 0
    kept = [next(running) for _ in range(3 * len(running))]
    assert [as_bytes(batch) for batch in kept] == expected(range(3))


def test_batches_are_the_same_in_any_order(running: DataGenerator) -> None:
    plain = make(use_multiprocessing=False)
    for epoch in (5, 2):
        running.epoch = plain.epoch = epoch
        for index in np.random.default_rng(epoch).permutation(len(plain)).tolist():
            assert as_bytes(running[index]) == as_bytes(plain[index])


def test_a_view_keeps_its_batch(running: DataGenerator) -> None:
    running.epoch = 0
    whole = running[1][0][0]
    view = whole[2:, ::2].reshape(2, -1)
    copy = view.copy()
    del whole
    for _ in range(3 * len(running)):
        next(running)
    assert np.array_equal(view, copy)


def test_batches_begin_where_tensorflow_takes_them_without_a_copy(running: DataGenerator) -> None:
    plain = make(use_multiprocessing=False)
    for generator in (running, plain):
        assert all(generator[index][0][0].ctypes.data % 64 == 0 for index in range(len(plain)))


def test_a_batch_may_be_written_to(running: DataGenerator) -> None:
    running.epoch = 0
    running[3][0][0][:] = 0
    assert as_bytes(running[3]) == expected(range(1))[3]


def test_a_pickled_copy_serves_the_same(running: DataGenerator) -> None:
    running.epoch = 0
    with pickle.loads(pickle.dumps(running)) as copied:
        assert [as_bytes(copied[index]) for index in range(3)] == expected(range(1))[:3]


def test_processes_make_a_shard_as_threads_do() -> None:
    alone = shard_for_devices(make(batch_size=24, use_multiprocessing=False), 1, 1, 2)
    with shard_for_devices(make(batch_size=24), 1, 1, 2) as shard:
        started(shard)
        for shard.epoch in (0, 1):
            alone.epoch = shard.epoch
            for index in range(len(shard)):
                assert as_bytes(shard[index]) == as_bytes(alone[index])


def test_after_closing_the_processes_are_gone_and_batches_still_come() -> None:
    with make() as generator:
        processes = started(generator)
        kept = generator[2][0][0]
        before = kept.copy()
    assert are_gone(processes)
    assert np.array_equal(kept, before)
    assert [as_bytes(generator[index]) for index in range(3)] == expected(range(1))[:3]


def test_the_processes_end_with_the_generator() -> None:
    generator = make()
    processes = started(generator)
    del generator
    gc.collect()
    assert wait_for(lambda: are_gone(processes))


def tiny_model() -> Any:
    image, gender = keras.Input((SIZE, SIZE, 1)), keras.Input((1,))
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(image), gender])
    model = keras.Model([image, gender], keras.layers.Dense(1)(joined))
    model.compile(loss="mae")
    return model


def test_a_process_that_dies_ends_the_training_with_a_message() -> None:
    killed = 0.0

    def kill(batch: int, logs: Any = None) -> None:
        nonlocal killed
        if batch == 1 and not killed:
            killed = time.monotonic()
            os.kill(processes[0], signal.SIGKILL)

    generator = make()
    processes = started(generator)
    with pytest.raises(InputError, match="was killed by signal 9"), generator:
        tiny_model().fit(
            generator,
            epochs=1000,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=kill)],
        )
    assert time.monotonic() - killed < SECONDS
    assert are_gone(processes)


def test_what_an_augmentation_raises_reaches_the_user() -> None:
    ours = os.getpid()

    def fails(image: Any) -> Any:
        if os.getpid() != ours:
            raise ValueError("too bright a corner")
        return image

    generator = make(augmentation=fails)
    with pytest.raises(ValueError, match="too bright a corner") as caught, generator:
        tiny_model().fit(generator, epochs=1000, shuffle=False, verbose=0)
    assert type(caught.value) is ValueError
    assert any("in fails" in note for note in caught.value.__notes__), "where it was raised"


def test_an_exception_that_cannot_be_pickled_arrives_as_text() -> None:
    ours = os.getpid()

    class OddError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"odd {one} {two}")

    def fails(image: Any) -> Any:
        if os.getpid() != ours:
            raise OddError(1, 2)
        return image

    generator = make(augmentation=fails)
    with pytest.raises(RuntimeError, match="odd 1 2"), generator:
        started(generator)


def test_an_augmentation_that_cannot_be_pickled_is_refused() -> None:
    lock = threading.Lock()

    def waits(image: Any) -> Any:
        with lock:
            return image

    with pytest.raises(InputError, match=r"augmentation: .*can't be pickled"):
        make(augmentation=waits)[0]


def test_a_module_that_the_processes_do_not_find_is_named(tmp_path: Path) -> None:
    (tmp_path / "there_for_a_moment.py").write_text("def same(image):\n    return image\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from there_for_a_moment import same  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    with (
        pytest.raises(ModuleNotFoundError, match="there_for_a_moment"),
        make(augmentation=same) as generator,
    ):
        started(generator)


def test_processes_know_the_gains_of_a_store(tmp_path: Path) -> None:
    for number in range(8):
        levels = np.random.default_rng(number).integers(90, 100 + 20 * number, (50, 40))
        cv2.imwrite(str(tmp_path / f"{number}.png"), levels.astype(np.uint8))
    names = [f"{number}.png" for number in range(8)]
    columns = {"image_id": names, "image": names, "age_months": 90.0, "sex": "F", "split": "train"}
    manifest = write_manifest(pd.DataFrame(columns), tmp_path / "manifest.csv")
    store = prepare(manifest, Framing(size=32), progress=False)
    labels = {"gender": ["F"] * 8, "age_months": [90.0] * 8}
    augmentation = Augmentation(resample=0.5, blur=0.5, noise=0.8, jpeg=0.5)
    settings = {"images": store, **labels, "augmentation": augmentation}
    with make(**settings) as generator:
        started(generator)
        generator.epoch = 7
        served = [as_bytes(generator[index]) for index in range(2)]
    with make(**settings, use_multiprocessing=False) as plain:
        plain.epoch = 7
        assert [as_bytes(plain[index]) for index in range(2)] == served


SCRIPT = """
import os, sys, time
import numpy as np
from boneage.pipeline.generator import DataGenerator
from boneage.recipe import Augmentation

def darker(image):  # defined in the script itself, which guards no __main__
    return image // 2

images = np.full((64, 24, 24), 200, np.uint8)
generator = DataGenerator(images, ["F"] * 64, [100.0] * 64, 4, augmentation=darker,
                          workers=2, use_multiprocessing=True)
{then}
"""


def script(then: str, tmp_path: Path, *before: str, **settings: Any) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(then=then))
    return subprocess.Popen(
        [*before, sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        **settings,
    )


WARM = """
while len(generator.process_ids) < 2:
    time.sleep(0.02); generator[0]
print(*generator.process_ids, flush=True)
"""


def test_a_script_needs_no_guard_and_the_processes_end_when_it_is_killed(tmp_path: Path) -> None:
    served = "print({round(generator[index][0][0].max() * 255) for index in range(8)}, flush=True)"
    with script(WARM + f"{served}; time.sleep(600)", tmp_path) as process:
        assert process.stdout is not None
        workers = [int(worker) for worker in process.stdout.readline().split()]
        assert process.stdout.readline() == "{100}\n"
        assert {psutil.Process(worker).ppid() for worker in workers} == {process.pid}
        process.kill()
        process.wait(SECONDS)
        assert wait_for(lambda: are_gone(workers))


def test_ctrl_c_ends_all_with_one_traceback(tmp_path: Path) -> None:
    with script(WARM + "while True: next(generator)", tmp_path, process_group=0) as process:
        assert process.stdout is not None
        workers = [int(worker) for worker in process.stdout.readline().split()]
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        _, err = process.communicate(timeout=SECONDS)
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1
    assert wait_for(lambda: are_gone(workers))


def test_a_full_dev_shm_is_no_limit(tmp_path: Path) -> None:
    alone = ["unshare", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=4k none /dev/shm && head -c 8k /dev/zero > /dev/shm/full; "
    try:
        subprocess.run([*alone, mount + "test -s /dev/shm/full"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no separate /dev/shm can be mounted here")
    then = WARM + "for _ in range(64): next(generator)\nprint('served')"
    with script(then, tmp_path, *alone, mount + 'exec "$0" "$@"') as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.endswith("served\n")


def test_too_little_memory_for_the_batches_is_an_input_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(InputError, match=r"workers: the batches need .* Use fewer workers"):
        make()[0]


def test_the_plan_goes_in_order_and_over_the_end_of_the_epoch() -> None:
    plan = PrefetchPlan(3)
    assert plan.upcoming((0, 0), 4) == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert plan.upcoming((0, 1), 4) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert plan.upcoming((0, 2), 2) == [(1, 0), (1, 1)]
    assert plan.upcoming((7, 0), 2) == [(7, 1), (7, 2)]
    assert PrefetchPlan(1).upcoming((0, 0), 3) == [(1, 0), (2, 0), (3, 0)]


def test_the_plan_begins_with_two_batches_in_order() -> None:
    plan = PrefetchPlan(20)
    assert plan.upcoming((0, 19), 5) == []
    assert plan.upcoming((0, 17), 5) == []
    assert plan.upcoming((0, 18), 2) == [(0, 19), (1, 0)]


def test_the_plan_allows_threads_to_overtake_but_drops_skipped_batches() -> None:
    plan = PrefetchPlan(100)
    plan.upcoming((0, 0), 4)
    assert plan.upcoming((0, 2), 4) == [(0, 1), (0, 3), (0, 4), (0, 5)]
    assert plan.upcoming((0, 1), 4) == [(0, 3), (0, 4), (0, 5), (0, 6)]
    for index in range(4, 9):
        upcoming = plan.upcoming((0, index), 4)
    assert upcoming == [(0, 9), (0, 10), (0, 11), (0, 12)]
