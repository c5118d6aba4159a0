import numpy as np
import pytest

from boneage.errors import InputError
from boneage.prediction.test_time_views import looks


def radiograph() -> np.ndarray:
    picture = np.zeros((64, 64), np.uint8)
    picture[24:40, 40:48] = 200
    return picture


@pytest.mark.parametrize("views", [1, 2, 6])
def test_there_are_as_many_looks_as_asked_for_and_the_first_changes_nothing(views):
    first, *others = looks(views)
    assert first is None
    assert len(others) == views - 1
    seen = [radiograph()] + [look(radiograph()) for look in others]
    assert all(one.dtype == np.uint8 and one.shape == (64, 64) for one in seen)
    assert len({one.tobytes() for one in seen}) == views  # no view is given twice the say


def test_a_look_leaves_the_radiograph_that_it_is_given_as_it_is():
    picture = radiograph()
    for look in looks(6)[1:]:
        look(picture)
    np.testing.assert_array_equal(picture, radiograph())


def test_the_second_is_the_mirror_image():
    np.testing.assert_array_equal(looks(2)[1](radiograph()), radiograph()[:, ::-1])


def test_the_mirror_image_is_turned_as_the_radiograph_is():
    turned = [look(radiograph()) for look in looks(6)[2:4]]
    others = [look(radiograph()[:, ::-1]) for look in looks(6)[4:]]  # mirrored twice: as it was
    for one, other in zip(turned, others, strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_number_is_refused():
    with pytest.raises(InputError, match=r"views: it is 4; expected one of 1, 2, 6"):
        looks(4)
