"""A network of ConvNeXt's kind that is built in a moment."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import pytest
from keras.src.applications.convnext import ConvNeXt

from boneage.models.backbones import BACKBONES, Backbone


def build(image_size: int) -> keras.Model:
    return ConvNeXt(
        depths=[1, 1, 2, 1],
        projection_dims=[8, 8, 16, 16],
        include_top=False,
        include_preprocessing=False,
        input_shape=(image_size, image_size, 3),
    )


@pytest.fixture
def tiny_convnext() -> Iterator[Backbone]:
    """The network, known to recipes as `tiny_convnext`."""
    BACKBONES["tiny_convnext"] = Backbone(build, range="imagenet", branch_end="_identity")
    yield BACKBONES["tiny_convnext"]
    del BACKBONES["tiny_convnext"]
