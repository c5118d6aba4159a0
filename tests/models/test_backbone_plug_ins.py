"""Backbones of other packages, found by their entry points and installed as pip does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boneage.errors import InputError
from boneage.models.backbones import BACKBONES, backbone_notes, backbone_source, find_backbone
from boneage.models.builder import build_model
from boneage.run import Run

GROUP = "boneage.backbones"
# A backbone with a layer of its own, which must be registered to be read again.
NET = """
import keras
from keras import layers


@keras.saving.register_keras_serializable("boneage_net")
class Scale(layers.Layer):
    def call(self, x):
        return 2 * x


def net(image_size):
    image = layers.Input((image_size, image_size, 1))
    x = layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    return keras.Model(image, Scale()(x))
"""
BROKEN = """
import keras
from keras import layers
from boneage.models.backbones import Backbone

class Unregistered(layers.Layer):
    def call(self, x):
        return x

def network(image_size, channels=1, last=lambda x: x):
    image = layers.Input((image_size, image_size, channels))
    return keras.Model(image, last(layers.Conv2D(8, 3, strides=4)(image)))

def number(image_size): return 5
def none(image_size): ...
def no_size(): ...
def divides(image_size): return 1 / 0
def leaves(image_size): raise SystemExit
def five(image_size): return network(image_size, 5)
def vector(image_size): return network(image_size, last=layers.Flatten())
def unbuilt(image_size): return keras.Sequential([layers.Conv2D(3, 3)])
def unregistered(image_size): return network(image_size, last=Unregistered())
def lambdas(image_size): return network(image_size, last=layers.Lambda(lambda x: x))
def two(image_size):
    images = [layers.Input((image_size, image_size, 1)) for _ in range(2)]
    return keras.Model(images, layers.Conv2D(8, 3)(layers.Add()(images)))
grey_imagenet = Backbone(network, range="imagenet")
other_range = Backbone(network, range="0 to 255")
large = Backbone(network, smallest=100)
small = Backbone(network, smallest="48")
text = "network"
"""


@pytest.fixture
def broken(install: Callable[..., Path]) -> None:
    names = [line.split("(")[0][4:] for line in BROKEN.splitlines() if line.startswith("def ")]
    names += ["grey_imagenet", "other_range", "large", "small", "text", "missing"]
    points = {name: f"broken_networks:{name}" for name in names}
    points |= {"no_module": "no_module_of_that_name:x", "xception": "broken_networks:network"}
    install("boneage-broken", {GROUP: points}, {"broken_networks": BROKEN})


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("number", "it returned int instead of a keras.Model"),
        ("none", "it returned NoneType instead of a keras.Model"),
        ("no_size", "it failed (TypeError: no_size() takes 0 positional arguments"),
        ("divides", "it failed (ZeroDivisionError: division by zero)"),
        ("leaves", "it failed (SystemExit: )"),
        ("five", "its network has inputs [(None, 64, 64, 5)]"),
        ("vector", "outputs [(None, 2048)]"),
        ("unbuilt", "its network has inputs [] and outputs []"),
        ("two", "its network has inputs [(None, 64, 64, 1), (None, 64, 64, 1)]"),
        ("unregistered", "its network can't be saved and read again (Could not locate class"),
        ("lambdas", "its network can't be saved and read again"),
        ("grey_imagenet", "its network has inputs [(None, 64, 64, 1)]"),
        ("other_range", "its range '0 to 255' is neither 'symmetric' nor 'imagenet'"),
        ("small", "its smallest side is '48', not a number of pixels"),
        ("text", "broken_networks:text is not a function"),
        ("missing", "can't be loaded (AttributeError"),
        ("no_module", "can't be loaded (ModuleNotFoundError"),
    ],
)
def test_what_is_no_backbone_is_refused_with_its_package(name, what):
    with pytest.raises(InputError) as error:
        build_model(name, 64)
    (fault,) = error.value.faults
    assert fault.where == f"model.backbone {name} (from boneage-broken 1.0)"
    assert what in fault.what
    assert "A backbone is one function (image_size: int) -> keras.Model" in fault.fix


@pytest.mark.usefixtures("broken")
def test_names_of_boneage_stay_its_own_and_sizes_are_checked():
    assert find_backbone("xception", 299) is BACKBONES["xception"]
    assert backbone_notes("xception") == [
        "note: boneage-broken 1.0 offers a backbone xception, too. The backbone of boneage is used."
    ]
    assert backbone_source("xception") == {}
    assert backbone_notes("network") == backbone_notes("nothing") == []
    with pytest.raises(InputError, match="it is 64 pixels, and large needs at least 100"):
        find_backbone("large", 64)
    with pytest.raises(InputError, match="'netwrok' is not known.*xception, .*network"):
        find_backbone("netwrok", 64)


@pytest.mark.parametrize("ends", ["[image], [x]", "image, {'b': x}"])
def test_lists_and_dicts_of_one_array_and_any_name_are_taken(install, ends):
    code = NET.replace(
        "keras.Model(image, Scale()(x))", f"(x := Scale()(x), keras.Model({ends}))[1]"
    )
    install("boneage-net", {GROUP: {"réseau 1": "ends_net:net"}}, {"ends_net": code})
    model = build_model("réseau 1", 64, dense_units=(8,))
    assert model.name == "r_seau_1_bone_age"
    assert model.predict([np.ones((2, 64, 64, 1)), np.ones((2, 1))], verbose=0).shape == (2, 1)


def test_two_packages_with_one_name_are_a_fault_that_names_both(install):
    for package in ("net-a", "net-b"):
        install(package, {GROUP: {"net": "some_net:net"}}, {"some_net": NET})
    with pytest.raises(InputError) as error:
        build_model("net", 64)
    assert error.value.faults[0].where == "model.backbone net (from net-a 1.0 and net-b 1.0)"


@pytest.mark.slow
def test_a_backbone_is_trained_saved_and_read_again_only_with_its_package(
    boneage, install, run_together, cohort, tiny_recipe, tmp_path
):
    points = {GROUP: {"net": "boneage_net:net"}}
    site = install("boneage-net", points, {"boneage_net": NET}, version="2.1")
    settings = ["--set", "model.backbone=net", "--set", "training.epochs=1"]
    code, _, error = boneage("train", tiny_recipe, "--data", cohort, "--out", "run", *settings)
    assert code == 0, error
    recorded = Run(tmp_path / "run").read_info()["model"]["backbone"]
    assert recorded == {"name": "net", "package": "boneage-net", "version": "2.1"}
    image = next(cohort.parent.glob("images/*.png"))

    paths = [path for path in sys.path if path != str(site)]
    predict = ["predict", "run", str(image), "--sex", "F"]
    ((code, said, _),) = run_together(
        [predict], tmp_path, PYTHONPATH=os.pathsep.join([str(site), *paths])
    )
    assert code == 0, said
    months = float(re.search(r": ([\d.]+) months", said)[1])
    table = np.genfromtxt(tmp_path / "run" / "predictions-test.csv", delimiter=",", names=True)
    assert 0 <= months <= 240
    assert len(table)

    missing = "its backbone 'net' comes from boneage-net 2.1, which is not installed"
    lines = [predict, ["release", "run", "--out", "released"], ["train", "--resume", "run"]]
    for code, said, _ in run_together(lines, tmp_path, PYTHONPATH=os.pathsep.join(paths)):
        assert (code, missing in said) == (2, True), said
        assert "pip install boneage-net==2.1" in said
        assert "Traceback" not in said
