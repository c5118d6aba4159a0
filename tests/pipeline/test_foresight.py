from __future__ import annotations

import random

from boneage.pipeline.foresight import Foresight


def test_in_order_and_over_the_end_of_the_epoch() -> None:
    foresight = Foresight(3)
    assert foresight.upcoming((0, 0), 4) == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert foresight.upcoming((0, 1), 4) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert foresight.upcoming((0, 2), 2) == [(1, 0), (1, 1)]
    assert foresight.upcoming((1, 0), 2) == [(1, 1), (1, 2)]


def test_the_order_that_keras_shuffles_to() -> None:
    order = list(range(20))
    foresight = Foresight(20)
    foresight.note_epoch()
    random.shuffle(order)  # as PyDatasetAdapter does
    for index in (0, 1):  # which it looks at to learn the shapes
        foresight.upcoming((2, index), 5)
    for turn, index in enumerate(order[:15]):
        upcoming = foresight.upcoming((2, index), 5)
        assert upcoming == [(2, following) for following in order[turn + 1 : turn + 6]]


def test_an_order_of_one_s_own_is_not_guessed_at() -> None:
    foresight = Foresight(10**6)  # so many that it can't be Keras' by chance
    assert foresight.upcoming((0, 19), 5) == []
    assert foresight.upcoming((0, 17), 5) == []


def test_begun_again_from_the_first() -> None:
    foresight = Foresight(5)
    for index in (0, 1):
        foresight.upcoming((0, index), 2)
    assert foresight.upcoming((0, 0), 2) == [(0, 1), (0, 2)]
    assert foresight.upcoming((7, 0), 2) == [(7, 1), (7, 2)]


def test_one_batch_an_epoch() -> None:
    assert Foresight(1).upcoming((0, 0), 3) == [(1, 0), (2, 0), (3, 0)]


def test_python_s_random_state_stays() -> None:
    before = random.getstate()
    foresight = Foresight(4)
    foresight.note_epoch()
    foresight.upcoming((0, 3), 3)
    assert random.getstate() == before
