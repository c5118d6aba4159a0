r"""A training step of a timm Xception in PyTorch, to compare with the benchmark `training`.

Question: does Keras with our generator train as fast as PyTorch?
Cost: a minute or two on a GPU for each size, batch and precision.
Expected result: none yet on a GPU. On a CPU it has only been run, not measured.
Command, in a clone:
    python -m experiments.throughput.timm_training --size 299 --batch 32 --precision bfloat16 \
        --out FILE
    and for ours (with KERAS_BACKEND=jax if there is no TensorFlow):
    python -m experiments.throughput.benchmark training --backbone xception --size 299 --batch 32 \
        --precision mixed_bfloat16 --out FILE

Both have the same kind of model (Xception, one channel, one number), loss (MAE), optimizer (Adam),
images (a store of drawn hands), augmentation (ours, in the processes of the DataLoader) and batch.
The rows are one constant batch on the device, and the DataLoader. Rates are images per second, the
median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch

from experiments.throughput.benchmark.contenders import Setting
from experiments.throughput.benchmark.radiographs import write_phantom_store
from experiments.throughput.benchmark.result import add_ratios, document, rates_row, significant
from experiments.throughput.benchmark.torch_loader import batches

CONSTANT, LOADER = "timm, constant batch on the device", "timm, DataLoader"


def make_setting(folder: Path, size: int, batch: int, workers: int) -> Setting:
    """Write a store of drawn hands, and return the conditions of reading it."""
    write_phantom_store(folder / "store", 2_048, size)
    return Setting((), (), str(folder / "store"), size, batch, workers, count=12_611)


class Trainer:
    """A model and its training step."""

    def __init__(self, name: str, precision: str, compiled: bool, device: str) -> None:
        model = timm.create_model(name, in_chans=1, num_classes=1)
        self.model: Any = model.to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4)
        self.device = device
        self.bfloat16 = precision == "bfloat16"
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        if compiled:
            self.model = torch.compile(self.model)

    def step(self, images: Any, ages: Any) -> Any:
        """Train on a batch on the device, and return the loss, also on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            answers = self.model(images)
            loss = torch.nn.functional.l1_loss(answers.float()[:, 0], ages)
        loss.backward()
        self.optimizer.step()
        return loss

    def seconds(self, source: Iterator[Any], steps: int) -> float:
        """Return the time of steps, from the end of the step before to the end of the last."""
        loss = self.step(*self.to_device(next(source)))
        float(loss)
        started = time.perf_counter()
        for _ in range(steps):
            loss = self.step(*self.to_device(next(source)))
        float(loss)  # waits for the device
        return time.perf_counter() - started

    def to_device(self, images: Any) -> tuple[Any, Any]:
        """Return a batch `(b, h, w, 1)` on the device in PyTorch's order, and ages."""
        images = images.permute(0, 3, 1, 2)  # channels last as it is
        if self.device == "cuda" and not images.is_cuda:
            images = images.pin_memory()
        images = images.to(self.device, non_blocking=True)
        return images, torch.full((len(images),), 100.0, device=self.device)


def forever(images: Any) -> Iterator[Any]:
    """Yield the same batch without end."""
    while True:
        yield images


def main() -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="legacy_xception")
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(chosen.model, chosen.precision, chosen.compile, device)
    with tempfile.TemporaryDirectory() as temporary:
        setting = make_setting(Path(temporary), chosen.size, chosen.batch, chosen.workers)
        loader = batches(setting, store=True, fused=True)
        sources = {CONSTANT: forever(next(loader).to(device)), LOADER: loader}
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for number in range(chosen.rounds + 1):
            for name, source in sources.items():
                taken = trainer.seconds(source, chosen.steps)
                if number:  # the first round is a warm-up
                    seconds[name].append(taken)
        loader.close()  # type: ignore[attr-defined]
    images = chosen.steps * chosen.batch
    rows = [
        rates_row(
            name,
            [images / each for each in taken],
            milliseconds_per_step=significant(1000 * statistics.median(taken) / chosen.steps),
        )
        for name, taken in seconds.items()
    ]
    add_ratios(rows, LOADER)
    settings = {key: value for key, value in vars(chosen).items() if key != "out"}
    settings["parameters"] = trainer.parameters
    name = torch.cuda.get_device_name() if device == "cuda" else None
    text = json.dumps(document(settings, rows, device=name), indent=2)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
