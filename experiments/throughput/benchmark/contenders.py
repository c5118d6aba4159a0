"""Who runs in `boneage bench pipeline`, in the order of the table."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.throughput.benchmark.setting import Setting


@dataclass(frozen=True)
class Contender:
    """One way from images to float32 batches.

    Attributes:
        name: As on the command line.
        title: As in the table.
        module: Where its `batches` is.
        arguments: For `batches`, after the setting.
        needs: Packages; without one of them it is skipped.
        note: What there is to know of it besides.
    """

    name: str
    title: str
    module: str
    arguments: Mapping[str, bool] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    note: str = ""

    def lacks(self) -> str:
        """Why it can't run here, or nothing."""
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                how = "pip install torch grain" if package in _PEERS else "its own package"
                return f"{package} is not installed ({how})"
        return ""

    def batches(self, setting: Setting) -> Iterator[Any]:
        """Starts it: an iterator of batches of images that does not end."""
        module = importlib.import_module(self.module)
        started: Iterator[Any] = module.batches(setting, **self.arguments)
        return started


_PEERS = ("torch", "grain")
_ROOM = "experiments.throughput.benchmark"

CONTENDERS = (
    Contender(
        "tutorial",
        "tutorial generator, radiograph by film",
        f"{_ROOM}.tutorial",
        {"processes": False},
        note="imread, resize, float32/255, stock albumentations; in the training's thread",
    ),
    Contender(
        "tutorial-processes",
        "tutorial generator, use_multiprocessing",
        f"{_ROOM}.tutorial",
        {"processes": True},
        note="the same with workers=N and Keras' own pool of processes",
    ),
    Contender(
        "tf-data",
        "tf.data, cached, Keras layers",
        f"{_ROOM}.tensorflow_data",
        needs=("tensorflow",),
        note="decoded once; no gamma and no optical distortion, which Keras has no layers for; "
        "every other change is made to every image, without the policy's chances",
    ),
    Contender(
        "torch-png",
        "PyTorch DataLoader, resized PNG",
        f"{_ROOM}.torch_loader",
        {"store": False},
        needs=("torch",),
        note="stock albumentations on uint8",
    ),
    Contender(
        "torch-store",
        "PyTorch DataLoader, our store",
        f"{_ROOM}.torch_loader",
        {"store": True},
        needs=("torch",),
        note="stock albumentations on uint8",
    ),
    Contender(
        "torch-store-fused",
        "PyTorch DataLoader, our store and policy",
        f"{_ROOM}.torch_loader",
        {"store": True, "fused": True},
        needs=("torch",),
        note="our fused augmentation: what is left is transport",
    ),
    Contender(
        "grain-store",
        "grain, our store",
        f"{_ROOM}.grain_loader",
        needs=("grain",),
        note="stock albumentations on uint8, in its worker processes",
    ),
    Contender(
        "boneage-threads",
        "boneage, threads",
        f"{_ROOM}.ours",
        {"processes": False},
    ),
    Contender(
        "boneage-processes",
        "boneage, processes",
        f"{_ROOM}.ours",
        {"processes": True},
    ),
    Contender(
        "boneage-next",
        "boneage, processes, by next()",
        f"{_ROOM}.ours",
        {"processes": True, "adapter": False},
        note="without Keras' adapter",
    ),
    Contender(
        "limit-stock",
        "limit of the stock policy",
        f"{_ROOM}.limit",
        {"fused": False},
        note="albumentations alone, uint8 in memory, one process a core; nothing is delivered",
    ),
    Contender(
        "limit",
        "limit",
        f"{_ROOM}.limit",
        {"fused": True},
        note="our policy alone, uint8 in memory, one process a core; nothing is delivered",
    ),
)

BY_NAME = {contender.name: contender for contender in CONTENDERS}
