"""Processes that train together: who is gone, who failed, after which batch all stop."""

import threading
import time

import pytest

from boneage.training.distributed import heartbeat as module
from boneage.training.distributed.heartbeat import Watch
from boneage.training.distributed.hosts import Hosts


class Board(dict):
    """JAX's coordination service in one process: every rank writes and reads here."""

    def key_value_set(self, key, value, allow_overwrite):
        if self.get("gone"):
            raise RuntimeError("UNAVAILABLE: socket closed")
        self[key] = value

    def key_value_dir_get(self, key):
        return [(name, value) for name, value in self.copy().items() if name.startswith(key)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.2)


@pytest.fixture
def watches():
    """Two processes' watches on one board, and what ended each of them."""
    board, ended = Board(), {}
    names = ("a:1", "b:1")
    made = [
        Watch(board, Hosts("a:1", 2, rank, names), "Go on.", lambda f, r=rank: ended.update({r: f}))
        for rank in (0, 1)
    ]
    for watch in made:
        watch.start()
    yield made, board, ended
    for watch in made:
        if not watch.closed:
            watch.close()


def test_all_is_well_while_both_are_heard_of(watches):
    made, _, ended = watches
    time.sleep(0.8)
    assert [watch.lost(0) for watch in made] == [None, None]
    assert not ended


def test_a_silent_process_is_lost_and_named(watches):
    made, _, ended = watches
    made[1].close()
    fault = made[0].lost(5)
    assert str(fault) == (
        "process 1 (b:1): it has not been heard of for 0.4 seconds; "
        "expected all 2 processes until the end of the training. Go on."
    )
    time.sleep(0.4)
    assert not ended, "who asks reports it"


def test_a_process_that_hangs_on_a_lost_one_is_ended(watches):
    made, _, ended = watches
    made[1].close()
    deadline = time.monotonic() + 5
    while 0 not in ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended[0].where == "process 1 (b:1)"


def test_a_failure_is_told_to_the_others(watches):
    made, _, _ = watches
    made[1].tell_failure("the disk is full")
    assert made[0].lost(5).what == "the disk is full"


def test_without_its_board_the_first_process_is_lost(watches):
    made, board, _ = watches
    board["gone"] = True
    assert made[1].lost(5).where == "process 0 (a:1)"


def test_all_stop_after_the_same_batch(watches):
    made, _, _ = watches
    step = threading.Barrier(2)
    stopped = {}

    def train(rank):
        for batch in range(1, 500):
            step.wait(10)  # a batch is done together
            if made[rank].stops(rank == 1 and batch == 20):
                stopped[rank] = batch
                return

    threads = [threading.Thread(target=train, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert stopped[0] == stopped[1] > 20
    assert all(watch.stopped for watch in made)
