import numpy as np
import pytest

from boneage.errors import InputError
from boneage.prediction import test_time_views as module


@pytest.fixture
def image() -> np.ndarray:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[24:40, 40:48] = 200
    return pixels


@pytest.mark.parametrize("count", [1, 2, 6])
def test_the_first_view_is_the_image_and_every_view_differs(image, count):
    before = image.copy()
    seen = [make_view(image) for make_view in module.test_time_views(count)]
    np.testing.assert_array_equal(seen[0], before)
    np.testing.assert_array_equal(image, before)
    assert all(view.dtype == np.uint8 and view.shape == (64, 64) for view in seen)
    assert len({view.tobytes() for view in seen}) == len(seen) == count


def test_the_second_view_is_mirrored_and_mirrored_views_are_rotated_like_the_image(image):
    views = module.test_time_views(6)
    np.testing.assert_array_equal(views[1](image), image[:, ::-1])
    for plain, mirrored in ((2, 4), (3, 5)):
        np.testing.assert_array_equal(views[mirrored](image[:, ::-1]), views[plain](image))


def test_another_number_of_views_is_refused():
    with pytest.raises(InputError, match=r"views: it is 4. Choose one of 1, 2, 6"):
        module.test_time_views(4)
