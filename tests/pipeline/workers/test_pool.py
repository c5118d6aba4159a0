"""Batches made in processes: the same, in any order, and nothing left when something breaks."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from boneage.errors import InputError
from boneage.pipeline.generator import DataGenerator
from boneage.recipe import Augmentation

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it has no such processes")

COUNT, SIZE = 64, 24
SECONDS = 10.0  # to tell of what went wrong; and to be gone
COMMAND = "boneage.pipeline.workers.process"


def make(**changes: Any) -> DataGenerator:
    given: dict[str, Any] = {
        "images": np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE), dtype=np.uint8),
        "gender": np.arange(COUNT) % 2,
        "age_months": np.arange(COUNT),
        "batch_size": 4,
        "shuffle": True,
        "augmentation": Augmentation(),
        "workers": 2,
        "use_multiprocessing": True,
    }
    return DataGenerator(**{**given, **changes})


def as_bytes(batch: Any) -> bytes:
    (image, gender), age_months = batch
    return b"".join(np.asarray(array).tobytes() for array in (image, gender, age_months))


def expected(epochs: range, **changes: Any) -> list[bytes]:
    with make(use_multiprocessing=False, **changes) as plain:
        return [as_bytes(next(plain)) for _ in range(len(epochs) * len(plain))]


def workers_of(parent: int) -> list[int]:
    """The worker processes of a process, found in the process table."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
            command = status.with_name("cmdline").read_text()
        except OSError:
            continue
        if COMMAND in command and int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found


def wait_for(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return answer


def is_gone(process: int) -> bool:
    try:
        # A killed one stays in the table, as a zombie, until its parent has asked after it.
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


def started(generator: DataGenerator) -> list[int]:
    """Asks for batches until the processes make them; returns the processes."""
    generator[0]
    making = generator._making
    assert making is not None

    def all_ready() -> bool:
        generator[0]
        return making.running

    assert wait_for(all_ready, 60)
    return [worker.child.process.pid for worker in making._workers]


@pytest.fixture(scope="module")
def running() -> Iterator[DataGenerator]:
    with make() as generator:
        started(generator)
        yield generator


def test_batches_are_the_same_in_order_and_over_epochs(running: DataGenerator) -> None:
    running.epoch, running._next_index = 0, 0
    assert [as_bytes(next(running)) for _ in range(3 * len(running))] == expected(range(3))


def test_batches_are_the_same_in_any_order(running: DataGenerator) -> None:
    plain = make(use_multiprocessing=False)
    for epoch in (5, 2):
        running.epoch = plain.epoch = epoch
        for index in np.random.default_rng(epoch).permutation(len(plain)).tolist():
            assert as_bytes(running[index]) == as_bytes(plain[index])


def test_threads_may_ask_at_once(running: DataGenerator) -> None:
    running.epoch = 0
    indices = [*range(len(running)), *reversed(range(len(running))), 3, 3, 3]
    alone = expected(range(1))
    with ThreadPoolExecutor(6) as threads:
        batches = list(threads.map(lambda index: as_bytes(running[index]), indices))
    assert batches == [alone[index] for index in indices]


def test_a_batch_that_is_kept_stays_what_it_was(running: DataGenerator) -> None:
    running.epoch, running._next_index = 0, 0
    kept = [next(running) for _ in range(2 * len(running))]
    assert [as_bytes(batch) for batch in kept] == expected(range(2))


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
    assert all(running[index][0][0].ctypes.data % 64 == 0 for index in range(len(running)))
    plain = make(use_multiprocessing=False)
    assert all(plain[index][0][0].ctypes.data % 64 == 0 for index in range(len(plain)))


def test_a_batch_may_be_written_to(running: DataGenerator) -> None:
    running.epoch = 0
    running[3][0][0][:] = 0
    assert as_bytes(running[3]) == expected(range(1))[3]


def test_a_pickled_copy_serves_the_same(running: DataGenerator) -> None:
    import pickle

    running.epoch = 0
    with pickle.loads(pickle.dumps(running)) as copied:
        assert [as_bytes(copied[index]) for index in range(3)] == expected(range(1))[:3]


def test_closed_they_are_gone_and_batches_still_come() -> None:
    with make() as generator:
        processes = started(generator)
        kept = generator[2][0][0]
        before = kept.copy()
    assert all(is_gone(process) for process in processes)
    assert np.array_equal(kept, before)
    assert [as_bytes(generator[index]) for index in range(3)] == expected(range(1))[:3]


def test_they_go_with_the_generator() -> None:
    generator = make()
    processes = started(generator)
    del generator
    gc.collect()
    assert wait_for(lambda: all(is_gone(process) for process in processes))


def tiny_model() -> Any:
    image, gender = keras.Input((SIZE, SIZE, 1)), keras.Input((1,))
    joined = keras.layers.Concatenate()([keras.layers.Flatten()(image), gender])
    model = keras.Model([image, gender], keras.layers.Dense(1)(joined))
    model.compile(loss="mae")
    return model


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_process_that_dies_ends_the_training_with_a_message(number: signal.Signals) -> None:
    begun = 0.0

    def kill(batch: int, logs: Any = None) -> None:
        nonlocal begun
        if batch == 1 and not begun:
            begun = time.monotonic()
            os.kill(processes[0], number)

    generator = make()
    processes = started(generator)
    with pytest.raises(InputError, match=f"was killed by signal {number.value}"), generator:
        tiny_model().fit(
            generator,
            epochs=1000,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=kill)],
        )
    assert time.monotonic() - begun < SECONDS
    assert all(is_gone(process) for process in processes)


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


def test_an_exception_that_cannot_be_pickled_is_told_as_text() -> None:
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


def test_what_cannot_be_handed_over_is_refused() -> None:
    lock = threading.Lock()

    def waits(image: Any) -> Any:
        with lock:
            return image

    generator = make(augmentation=waits)
    with pytest.raises(InputError, match="augmentation: it can't be handed to another process"):
        generator[0]


def test_a_module_that_the_processes_do_not_find_is_told(tmp_path: Path) -> None:
    (tmp_path / "there_for_a_moment.py").write_text("def same(image):\n    return image\n")
    sys.path.insert(0, str(tmp_path))
    try:
        from there_for_a_moment import same  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    generator = make(augmentation=same)

    def until_told() -> None:
        while True:
            generator[0]
            time.sleep(0.05)

    with pytest.raises(ModuleNotFoundError, match="there_for_a_moment"), generator:
        until_told()


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
generator[0]
while not generator._making.running:
    time.sleep(0.02); generator[0]
print(*[worker.child.process.pid for worker in generator._making._workers], flush=True)
"""


def test_a_plain_script_needs_no_guard(tmp_path: Path) -> None:
    then = WARM + "print({round(generator[index][0][0].max() * 255) for index in range(8)})"
    with script(then, tmp_path) as process:
        out, err = process.communicate(timeout=120)
    first, second = out.splitlines()
    assert process.returncode == 0, err
    assert second == "{100}"
    assert all(is_gone(int(worker)) for worker in first.split())


def test_they_go_when_the_parent_is_killed(tmp_path: Path) -> None:
    with script(WARM + "time.sleep(600)", tmp_path) as process:
        assert process.stdout is not None
        workers = [int(worker) for worker in process.stdout.readline().split()]
        assert sorted(workers_of(process.pid)) == sorted(workers)
        process.kill()
        process.wait(SECONDS)
        assert wait_for(lambda: all(is_gone(worker) for worker in workers))


def test_ctrl_c_ends_it_without_a_word_from_the_processes(tmp_path: Path) -> None:
    then = WARM + "while True: next(generator)"
    with script(then, tmp_path, process_group=0) as process:
        assert process.stdout is not None
        workers = [int(worker) for worker in process.stdout.readline().split()]
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        _, err = process.communicate(timeout=SECONDS)
    assert err.count("Traceback") == err.count("KeyboardInterrupt") == 1
    assert wait_for(lambda: all(is_gone(worker) for worker in workers))


def test_a_full_dev_shm_is_no_limit(tmp_path: Path) -> None:
    alone = ["unshare", "--mount", "sh", "-c"]
    mount = "mount -t tmpfs -o size=4k none /dev/shm && head -c 8k /dev/zero > /dev/shm/full; "
    try:
        subprocess.run([*alone, mount + "test -s /dev/shm/full"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no /dev/shm of its own can be mounted here")
    then = WARM + "for _ in range(64): next(generator)\nprint('served')"
    with script(then, tmp_path, *alone, mount + 'exec "$0" "$@"') as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.endswith("served\n")


def test_no_memory_for_the_batches_is_told(tmp_path: Path) -> None:
    then = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))\n"
        "try: generator[0]\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    with script(then, tmp_path) as process:
        out, err = process.communicate(timeout=120)
    assert "InputError workers: no " in out, err
    assert "Take fewer workers" in out
