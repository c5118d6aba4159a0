from __future__ import annotations

import zipfile

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.prediction.familiarity import CLEAR, NAME, Familiarity, read_familiarity

FEATURES = 24
SURE = 9.0


def around(direction: int, count: int, seed: int, spread: float = 0.05) -> np.ndarray:
    """Features of some images that are all alike: a direction, with noise, of any length."""
    rng = np.random.default_rng(seed)
    features = np.eye(FEATURES)[direction] + rng.normal(0, spread, (count, FEATURES))
    return (features * rng.uniform(1, 9, (count, 1))).astype(np.float32)


def hands(count: int, seed: int) -> np.ndarray:
    return np.concatenate([around(each, count // 4, seed + each) for each in range(4)])


def sure(features: np.ndarray) -> np.ndarray:
    return np.full(len(features), SURE)


@pytest.fixture(scope="module")
def known() -> Familiarity:
    val = hands(200, 50)
    return Familiarity.fit(hands(400, 0), val, sure(val), around(6, 80, 90), seed=0)


def test_one_in_a_hundred_validation_images_is_beyond_the_limit(known):
    val, other = hands(200, 50), hands(400, 70)
    assert (known.distances(val, sure(val)) > known.limit).mean() == pytest.approx(0.01, abs=0.006)
    assert (known.distances(other, sure(other)) > known.limit).mean() < 0.05


def test_images_in_another_direction_are_beyond_the_limit_however_long(known):
    others = np.concatenate([around(5, 20, 1), 1e3 * around(7, 20, 2), -hands(20, 3)])
    assert (known.distances(others, sure(others)) > known.limit).all()
    flat = np.zeros((1, FEATURES), np.float32)
    assert known.distances(flat, sure(flat)) > known.limit


def test_an_unclear_orientation_adds_to_the_distance(known):
    image = hands(4, 5)
    clear = known.distances(image, np.full(4, CLEAR))
    assert np.array_equal(clear, known.distances(image, np.full(4, 50.0)))
    assert known.distances(image, np.full(4, CLEAR - 1)) == pytest.approx(clear + 1)
    assert known.distances(image, np.full(4, -90.0)) == pytest.approx(clear + 4)


def test_a_drawing_is_recognised_if_it_shows_a_hand_of_clear_orientation(known):
    drawn = around(6, 20, 4)
    assert known.are_drawings(drawn, sure(drawn)).all()
    assert not known.are_drawings(drawn, np.zeros(20)).any()
    for others in (hands(20, 6), around(5, 20, 7)):
        assert not known.are_drawings(others, sure(others)).any()


def test_a_run_that_was_trained_on_drawings_does_not_call_its_hands_drawings():
    train, val = around(6, 200, 1), around(6, 200, 2)
    known = Familiarity.fit(train, val, sure(val), around(6, 80, 3))
    assert len(known.drawings) == 0
    assert not known.are_drawings(val, sure(val)).any()


def test_the_fit_depends_on_the_seed_alone_and_keeps_no_single_image():
    train, val = np.concatenate([hands(60, 0), around(9, 1, 0)]), hands(100, 9)
    first, second = (Familiarity.fit(train, val, sure(val), seed=4) for _ in range(2))
    assert first.hands.tobytes() == second.hands.tobytes()
    assert first.limit == second.limit
    assert first.hands.dtype == np.float16
    assert len(first.hands) <= len(train) // 4
    single = train / np.linalg.norm(train, axis=1, keepdims=True)
    assert (first.hands.astype(np.float32) @ single.T).max() < 1 - 1e-4


def test_what_is_written_is_read_again(known, tmp_path):
    assert read_familiarity(tmp_path) is None
    assert known.write(tmp_path) == tmp_path / NAME
    found = read_familiarity(tmp_path)
    assert found is not None
    for name in ("hands", "drawings"):
        assert getattr(found, name).tobytes() == getattr(known, name).tobytes()
    limits = [(each.typical, each.limit, each.drawing_limit) for each in (found, known)]
    assert limits[0] == limits[1]


def test_a_damaged_file_is_refused(known, tmp_path):
    good = known.write(tmp_path).read_bytes()
    arrays = {"hands": known.hands, "drawings": known.drawings, "limits": np.ones(3)}
    changes = [
        {"hands": known.hands[:, :5]},
        {"hands": known.hands[0]},
        {"hands": known.hands.astype(np.float32)},
        {"hands": known.hands * np.float16(2)},
        {"hands": np.full_like(known.hands, np.nan)},
        {"hands": known.hands[:0]},
        {"limits": np.ones(2)},
        {"limits": np.array([1.0, np.inf, 1.0])},
        {"limits": np.array([0.0, 1.0, 1.0])},
        {"limits": np.array([{}, 1, 2], dtype=object)},
    ]
    for change in changes:
        np.savez(tmp_path / NAME, **(arrays | change))
        with pytest.raises(InputError, match=r"familiarity.npz: the directions of hands can't be"):
            read_familiarity(tmp_path)
    np.savez(tmp_path / NAME, hands=known.hands)
    with pytest.raises(InputError, match="familiarity.npz"):
        read_familiarity(tmp_path)
    for content in (b"", good[:-40], good[:700] + bytes(40) + good[740:]):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(InputError, match="familiarity.npz"):
            read_familiarity(tmp_path)


def test_a_file_that_would_fill_the_memory_is_refused(known, tmp_path):
    with zipfile.ZipFile(tmp_path / NAME, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("hands.npy", bytes(2**24))
    with pytest.raises(InputError, match="its arrays are larger than the file"):
        read_familiarity(tmp_path)
