import numpy as np

from boneage.prediction.engines import Ensemble


class Times:
    """An engine that answers with the mean grey level times a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, images, gender):
        return self.factor * images.mean(axis=(1, 2, 3), dtype=np.float64) + gender[:, 0]


def test_the_answer_of_an_ensemble_is_the_mean_of_its_engines():
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    gender = np.ones((3, 1), np.float32)
    engines = [Times(100.0), Times(103.0), Times(109.0)]
    np.testing.assert_allclose(
        Ensemble(engines).predict(images, gender), Times(104.0).predict(images, gender), rtol=1e-12
    )
    alone = Ensemble(engines[:1]).predict(images, gender)
    assert alone.tobytes() == engines[0].predict(images, gender).tobytes()
