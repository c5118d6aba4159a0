import numpy as np
import pytest

from boneage.errors import InputError
from boneage.prediction import test_time_views as module
from boneage.prediction.engines import Outputs


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


class LeftEdge:
    """An engine that answers with the grey level at the left edge, plus ten months for boys."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, images, gender):
        assert (images.dtype, gender.dtype) == (np.uint8, np.float32)
        assert images.shape[1:] == (8, 8)
        self.batches.append(len(images))
        return Outputs(
            images[:, 4, 0] + 10.0 * gender[:, 0].astype(float),
            images[:, 4, 0].astype(float),
            images[:, 4, :1].astype(np.float32),
        )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 230, (5, 8, 8), dtype=np.uint8)


def test_images_are_predicted_in_batches_that_do_not_change_the_answers(images):
    engine, gender = LeftEdge(), np.array([[0], [1], [0], [1], [1]], np.float32)
    found = module.mean_of_views(engine, images, gender, batch_size=2)
    months = found.months
    np.testing.assert_allclose(months, images[:, 4, 0] + 10.0 * gender[:, 0], rtol=1e-6)
    assert engine.batches == [2, 2, 1]
    np.testing.assert_array_equal(found.pooled, images[:, 4, :1])
    again = module.mean_of_views(engine, list(images), gender)
    np.testing.assert_array_equal(months, again.months)
    assert module.mean_of_views(engine, [], gender[:0]).months.shape == (0,)


def test_the_answer_of_two_views_is_the_mean_over_the_image_and_its_mirror_image(images):
    gender = np.zeros((5, 1), np.float32)
    both = module.mean_of_views(LeftEdge(), images, gender, views=2, batch_size=3)
    edges = images[:, 4, [0, -1]].astype(np.float64)
    np.testing.assert_allclose(both.months, edges.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(both.variance, edges.mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(both.pooled, images[:, 4, :1])  # of the image itself
