from __future__ import annotations

from boneage.pipeline.workers.prefetch import Foresight


def test_in_order_and_over_the_end_of_the_epoch() -> None:
    foresight = Foresight(3)
    assert foresight.upcoming((0, 0), 4) == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert foresight.upcoming((0, 1), 4) == [(0, 2), (1, 0), (1, 1), (1, 2)]
    assert foresight.upcoming((0, 2), 2) == [(1, 0), (1, 1)]
    assert foresight.upcoming((1, 0), 2) == [(1, 1), (1, 2)]


def test_an_order_of_one_s_own_is_not_guessed_at() -> None:
    foresight = Foresight(20)
    assert foresight.upcoming((0, 19), 5) == []
    assert foresight.upcoming((0, 17), 5) == []


def test_two_in_order_begin_a_course_anywhere() -> None:
    foresight = Foresight(20)
    assert foresight.upcoming((3, 7), 3) == []
    assert foresight.upcoming((3, 8), 3) == [(3, 9), (3, 10), (3, 11)]


def test_begun_again_from_the_first() -> None:
    foresight = Foresight(5)
    for index in (0, 1):
        foresight.upcoming((0, index), 2)
    assert foresight.upcoming((0, 0), 2) == [(0, 1), (0, 2)]
    assert foresight.upcoming((7, 0), 2) == [(7, 1), (7, 2)]


def test_one_batch_an_epoch() -> None:
    assert Foresight(1).upcoming((0, 0), 3) == [(1, 0), (2, 0), (3, 0)]


def test_threads_that_overtake_one_another_change_nothing() -> None:
    foresight = Foresight(100)
    foresight.upcoming((0, 0), 4)
    assert foresight.upcoming((0, 2), 4) == [(0, 1), (0, 3), (0, 4), (0, 5)]
    assert foresight.upcoming((0, 1), 4) == [(0, 3), (0, 4), (0, 5), (0, 6)]


def test_what_is_passed_over_again_and_again_is_given_up() -> None:
    foresight = Foresight(100)
    foresight.upcoming((0, 0), 4)
    for index in range(2, 8):
        upcoming = foresight.upcoming((0, index), 4)
    assert upcoming == [(0, 8), (0, 9), (0, 10), (0, 11)]
