import subprocess
import sys
import time

import pytest

from boneage.runtime.threads import threads


def test_results_come_in_order():
    with threads(3) as pool:
        assert list(pool.map(str, range(50))) == [str(number) for number in range(50)]
        assert list(pool.map(len, ["a", ""])) == [1, 0], "and once more"
        assert list(pool.map(str, [])) == []


def test_a_result_comes_as_soon_as_those_before_it_have():
    waiting = []

    def work(number):
        while number == 1 and not waiting:
            time.sleep(0.005)
        return number

    with threads(2) as pool:
        results = pool.map(work, range(3))
        assert next(results) == 0
        waiting.append("no longer")
        assert list(results) == [1, 2]


def test_an_error_comes_in_its_turn_drops_waiting_items_and_finishes_running_ones():
    begun, done = [], []

    def work(number):
        begun.append(number)
        time.sleep(0.1)
        done.append(number)
        if number == 2:
            raise OSError("two")
        return number

    results = []

    def consume():
        with threads(2) as pool:
            results.extend(pool.map(work, range(1000)))

    with pytest.raises(OSError, match="two"):
        consume()
    assert results == [0, 1]
    assert len(begun) <= 10
    assert sorted(done) == sorted(begun)


INTERRUPTED = """
import _thread, random, sys, threading, time
from boneage.runtime.threads import threads

draws = random.Random(int(sys.argv[1]))
for _ in range(25):
    def interrupt(after=draws.uniform(0, 0.05)):
        time.sleep(after)
        _thread.interrupt_main()
    try:
        threading.Thread(target=interrupt).start()
        with threads(4) as pool:
            for _ in pool.map(lambda _: sum(range(3000)), range(4_000)):
                pass
    except KeyboardInterrupt:
        pass
print("through")
"""


@pytest.mark.slow
def test_ctrl_c_at_any_moment_ends_them():
    command = [sys.executable, "-c", INTERRUPTED, "1"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.stdout == "through\n", process.stderr
