"""`make bench-input`: are images ready as fast as torchvision's reference loader has them, and does training wait?

Both read the same JPEG files of 500×375, which are made here, with as many processes, crop and flip them at random and
normalise them; they take turns, so that a busy machine slows down both, after what was read ahead is used up. Then
a network of the ImageNet space trains, and the time is taken that its steps wait for their images.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.common import SCRATCH
from nas_core import SearchSpace
from nas_core.data.augmentation import Augment
from nas_core.data.loading import Data, load
from nas_core.search.baselines import random_architecture
from nas_core.spec import SearchSpec, Settings
from nas_core.train.retrain import Retraining

FILE = Path("docs/benchmarks/input.json")
SIZE, BATCH, PROCESSES = 224, 64, 2
BUDGET = 600_000_000
QUALITY = 92
"""Of the JPEG files, which have about 110 KB each then, as ImageNet's do."""
AHEAD = 6
"""Batches that a loader may have read ahead, and that do not count."""


def main() -> int:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument("--turns", type=int, default=7, help="how often each loader is timed")
    parser.add_argument("--batches", type=int, default=8, help="of one turn")
    parser.add_argument("--steps", type=int, default=4, help="training steps that are timed")
    parser.add_argument("--train-batch", type=int, default=32)
    options = parser.parse_args()
    folder, bytes_each = photographs(SCRATCH / "photographs", options.images)
    settings = Settings.preset("imagenet", retrain_batch_size=options.train_batch)
    space = SearchSpace.preset("imagenet", classes=2)
    spec = SearchSpec(str(folder), (BUDGET,), space, settings, cpus_per_worker=PROCESSES)
    data = load(spec, [], "cpu")
    turns = rates(data, folder, options.turns, options.batches)
    data.close()
    record = {
        "torch": torch.__version__,
        "processor": platform.processor(),
        "processes": PROCESSES,
        "files": {"count": options.images, "bytes": bytes_each, "pixels": "500×375"},
        "images_a_second": turns | {"ratio": spread([a / b for a, b in zip(*turns.values(), strict=True)])},
        "step": waiting(spec, options.steps),
    }
    FILE.write_text(json.dumps(record, indent=1) + "\n")
    print(report(record))
    return 0


def photographs(folder: Path, images: int) -> tuple[Path, int]:
    """A folder of two classes of `images` like photographs, the same every time, and the mean size of their files.

    Their spectrum falls with the frequency as that of natural images does (Field, J. Opt. Soc. Am. A 4, 1987).
    """
    across = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.rfftfreq(500))
    across[0, 0] = 1
    for number in track(range(images), "photographs"):
        file = folder / f"class{number % 2}" / f"{number}.jpg"
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(number)
        noise = np.fft.rfft2(random.standard_normal((3, 375, 500))) / across
        shared = noise.mean(0, keepdims=True) * 2 + noise / 3  # colours go together
        waves = np.fft.irfft2(shared, (375, 500))
        pixels = (waves / waves.std() * 55 + 120).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(file, quality=QUALITY)
    sizes = [file.stat().st_size for file in folder.rglob("*.jpg")]
    return folder, round(statistics.mean(sizes))


Next = Callable[[], Tensor]


def rates(data: Data, folder: Path, turns: int, batches: int) -> dict[str, list[float]]:
    """Images a second of ours and of the reference, turn by turn."""
    loaders = {"ours": ours(data), "reference": reference(folder)}
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in track(range(turns), "turns"):
        for name, following in loaders.items():
            for _ in range(AHEAD):
                following()
            begin = time.perf_counter()
            for _ in range(batches):
                following()
            found[name].append(batches * BATCH / (time.perf_counter() - begin))
    return found


def ours(data: Data) -> Next:
    """The next batch of a training, as a search has it."""
    augment, steps = Augment.of(Settings.preset("imagenet"), retraining=True), count()
    return lambda: data.batch(data.training, next(steps), BATCH, 0, "bench", augment)[0]


def reference(folder: Path) -> Next:
    """The next batch of torchvision's reference (references/classification, presets.py and train.py), for ever."""
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            v2.ToPureTensor(),
        ]
    )
    dataset = ImageFolder(str(folder), transform)
    endless = RandomSampler(dataset, replacement=True, num_samples=10**6)
    loader = DataLoader(dataset, BATCH, sampler=endless, num_workers=PROCESSES, persistent_workers=True)
    batches: Iterator[Any] = iter(loader)
    return lambda: next(batches)[0]


class Timed(Data):
    """Data that notes how long each training batch is waited for, in `waited`."""

    waited: list[float]

    def batch(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        """The batch, once it is there."""
        begin = time.perf_counter()
        found = super().batch(*arguments)
        self.waited.append(time.perf_counter() - begin)
        return found


def waiting(spec: SearchSpec, steps: int) -> dict[str, Any]:
    """How much of a training step of a network of the ImageNet space waits for its images, normalised and flipped."""
    torch.set_num_threads(PROCESSES)
    made = load(spec, [], "cpu")
    data = Timed(**{field.name: getattr(made, field.name) for field in fields(Data)})
    data.__dict__["waited"] = []
    architecture = random_architecture(spec.space, BUDGET, 0)
    training = Retraining(spec, architecture, data, "cpu")
    training.advance()
    data.waited.clear()
    begin = time.perf_counter()
    for _ in track(range(steps), "training steps"):
        training.advance()
    seconds = time.perf_counter() - begin
    training.losses.read()
    data.close()
    return {
        "network": f"{architecture.multiply_adds:,} multiply-adds at {spec.space.image_size} pixels",
        "batch": spec.settings.retrain_batch_size,
        "device": "cpu",
        "seconds": seconds / steps,
        "waits": sum(data.waited) / seconds,
    }


def spread(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"low": low, "median": middle, "high": high}


def report(record: dict[str, Any]) -> str:
    """What was measured, in words."""
    rate, step = record["images_a_second"], record["step"]
    ratio = rate["ratio"]
    return (
        f"ours {statistics.median(rate['ours']):.0f} images/s, reference {statistics.median(rate['reference']):.0f}: "
        f"{ratio['median']:.2f} times as many (quartiles {ratio['low']:.2f} to {ratio['high']:.2f})\n"
        f"a step of {step['seconds']:.2f} s waits {step['waits']:.1%} of it for {step['batch']} images "
        f"({step['network']}, {step['device']})"
    )


if __name__ == "__main__":
    raise SystemExit(main())
