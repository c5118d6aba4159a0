"""The contenders of the benchmark `pipeline`, in the order of its table."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_FOLDER = "experiments.throughput.benchmark"
_PEERS = ("torch", "grain")


@dataclass(frozen=True)
class Setting:
    """The conditions that all contenders get.

    Attributes:
        radiographs: Files of radiographs in full size.
        pictures: The same radiographs, framed and resized, as 8-bit grey PNG files.
        store: Folder of a store with the same images.
        size: Side of a framed image in pixels.
        batch: Images per batch.
        workers: Number of threads or processes.
        count: Images per epoch. Files and rows are repeated up to this number.
        seed: Seed of order and augmentation.
        warm_seconds: Shortest time to run before the first turn.
        least_batches: Fewest batches of a turn.
    """

    radiographs: tuple[str, ...]
    pictures: tuple[str, ...]
    store: str
    size: int
    batch: int
    workers: int
    count: int
    seed: int = 0
    warm_seconds: float = 2.0
    least_batches: int = 8


@dataclass(frozen=True)
class Contender:
    """A way from images to float32 batches.

    Attributes:
        name: Name on the command line.
        title: Name in the table.
        module: Module of its function `batches(setting, **arguments)`.
        arguments: Arguments of that function.
        needs: Packages it needs. Without them it is skipped.
        note: What else the reader must know.
        waiting: Batches that may wait in its queues when a turn begins. Keras' adapter on
            TensorFlow fills a queue even for a dataset without workers.
    """

    name: str
    title: str
    module: str
    arguments: Mapping[str, bool] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    note: str = ""
    waiting: int = 16

    def missing(self) -> str:
        """Return why it can't run here, or nothing."""
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                how = "pip install torch grain" if package in _PEERS else "its own package"
                return f"{package} is not installed ({how})"
        return ""

    def batches(self, setting: Setting) -> Iterator[Any]:
        """Return an endless iterator of batches of images."""
        module = importlib.import_module(self.module)
        batches: Iterator[Any] = module.batches(setting, **self.arguments)
        return batches


def _contender(name: str, title: str, module: str, note: str = "", **arguments: Any) -> Contender:
    special = {key: arguments.pop(key) for key in ("needs",) if key in arguments}
    return Contender(name, title, f"{_FOLDER}.{module}", arguments, note=note, **special)


CONTENDERS = (
    _contender(
        "tutorial",
        "tutorial generator, image by image",
        "keras_datasets",
        "imread, resize, float32/255, stock albumentations; in the training's thread",
        kind="tutorial",
    ),
    _contender(
        "tutorial-processes",
        "tutorial generator, use_multiprocessing",
        "keras_datasets",
        "the same with workers=N and Keras' own pool of processes",
        kind="tutorial-processes",
    ),
    _contender(
        "tf-data",
        "tf.data, cached, Keras layers",
        "tensorflow_data",
        "decoded once; no gamma and no optical distortion, which Keras has no layers for; "
        "every other change is made to every image, without the policy's probabilities",
        needs=("tensorflow",),
    ),
    _contender(
        "torch-png",
        "PyTorch DataLoader, resized PNG",
        "torch_loader",
        "stock albumentations on uint8",
        store=False,
        needs=("torch",),
    ),
    _contender(
        "torch-store",
        "PyTorch DataLoader, our store",
        "torch_loader",
        "stock albumentations on uint8",
        store=True,
        needs=("torch",),
    ),
    _contender(
        "torch-store-fused",
        "PyTorch DataLoader, our store and policy",
        "torch_loader",
        "our fused augmentation; what remains is transport",
        store=True,
        fused=True,
        needs=("torch",),
    ),
    _contender(
        "grain-store",
        "grain, our store",
        "grain_loader",
        "stock albumentations on uint8, in its worker processes",
        needs=("grain",),
    ),
    _contender("boneage-threads", "boneage, threads", "keras_datasets", kind="boneage-threads"),
    _contender(
        "boneage-processes", "boneage, processes", "keras_datasets", kind="boneage-processes"
    ),
    _contender(
        "boneage-lower-quality",
        "boneage, processes, lower quality",
        "keras_datasets",
        "also resampling, blur, noise and JPEG, each with probability 0.3",
        kind="boneage-lower-quality",
    ),
    _contender(
        "boneage-next",
        "boneage, processes, by next()",
        "keras_datasets",
        "without Keras' adapter",
        kind="boneage-next",
    ),
    _contender(
        "limit-stock",
        "limit of the stock policy",
        "limit",
        "albumentations alone, uint8 in memory, one process per core; nothing is delivered",
        fused=False,
    ),
    _contender(
        "limit",
        "limit",
        "limit",
        "our policy alone, uint8 in memory, one process per core; nothing is delivered",
        fused=True,
    ),
)

BY_NAME = {contender.name: contender for contender in CONTENDERS}
