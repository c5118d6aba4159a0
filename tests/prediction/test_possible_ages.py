import numpy as np

from boneage.prediction.engines import Outputs
from boneage.prediction.possible_ages import answer_faults, limit_answers, possible_answers
from boneage.prediction.test_time_views import mean_of_views


def test_an_answer_a_little_outside_the_possible_ages_becomes_the_nearest_of_them():
    months = np.array([-12.0, -0.5, 0.0, 12.25, 240.0, 240.5, 252.0])
    assert limit_answers(months).tolist() == [0.0, 0.0, 0.0, 12.25, 240.0, 240.0, 240.0]


def test_an_answer_that_is_no_age_is_a_fault_of_its_image_alone():
    months = np.array([141.9, np.nan, -500.0, np.inf, -np.inf, 1e29, -12.5, 253.0, 0.0])
    limited = limit_answers(months)
    assert np.array_equal(limited, months, equal_nan=True)
    assert possible_answers(limited).tolist() == [True, *[False] * 7, True]
    faults = answer_faults([f"{row}.png" for row in range(9)], limited)
    assert [fault.where for fault in faults] == [f"{row}.png" for row in range(1, 8)]
    assert "the model answers -500 months, which is no bone age" in str(faults[1])
    assert "nan months" in str(faults[0])


def test_answers_are_limited_after_the_views_are_averaged():
    class Engine:
        def predict(self, images, gender):
            return Outputs(np.where(images[:, 0, 0] > 127, -30.0, 10.0))

    image = np.zeros((8, 8), np.uint8)
    image[0, 0] = 255  # only the image itself has it there, not its mirror image
    gender = np.zeros((1, 1), np.float32)
    assert limit_answers(mean_of_views(Engine(), [image], gender).months).tolist() == [-30.0]
    assert limit_answers(mean_of_views(Engine(), [image], gender, views=2).months).tolist() == [0.0]
