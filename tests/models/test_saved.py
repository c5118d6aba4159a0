import pytest

from boneage.errors import InputError
from boneage.models.saved import load_model


def test_a_file_that_is_not_a_model_is_refused_by_its_name(tmp_path):
    (tmp_path / "best.keras").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"best\.keras: the model can't be read"):
        load_model(tmp_path / "best.keras")
