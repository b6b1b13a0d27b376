"""`make bench-supernet`: how much faster than the plainest correct supernet is the one that searches?

Both take the same steps on the same images in turn, so that a busy machine slows down both; what is given is the ratio
of each pair, its median and its quartiles. Memory is what autograd keeps for the backward pass, counted and not timed.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from benchmarks.reference_supernet import ReferenceBlock, ReferenceSupernet
from nas_core import ApgNag, Search, SearchSpace
from nas_core.data.images import TensorImages
from nas_core.data.loading import Data
from nas_core.search.press import Press
from nas_core.search.spending import FLOOR
from nas_core.seeds import generator
from nas_core.space import branches, live
from nas_core.spec import SearchSpec, Settings
from nas_core.supernet.supernet import SupernetBlock
from nas_core.train.steps import weight_optimizer

FILE = Path("docs/benchmarks/supernet.json")
BATCH = 32
BUDGET_SHARE = 0.3


def main() -> int:
    """Measure every pair and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how often each pair is timed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="the pairs whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(name, make, options.pairs) for name, make in PAIRS.items() if options.only in name]
    rows += [bookkeeping(preset) for preset in ("cifar10", "imagenet") if options.only in "bookkeeping"]
    record = {"torch": torch.__version__, "processor": platform.processor(), "threads": options.threads, "rows": rows}
    if not options.only:
        FILE.write_text(json.dumps(record, indent=1) + "\n")
    print(report(rows))
    return 0


Work = Callable[[], object]


def measure(name: str, make: Callable[[], tuple[Work, Work]], pairs: int) -> dict[str, Any]:
    """Time ours and the reference in turn, after one round that is not counted."""
    ours, reference = make()
    kept = saved_bytes(ours), saved_bytes(reference)
    ratios = [seconds(reference) / seconds(ours) for _ in track(range(pairs), name)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"what": name, "ratio": median, "quartiles": [low, high], "saved_bytes": kept}


def seconds(work: Work) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def saved_bytes(work: Work) -> int:
    """The most bytes that autograd keeps at once for backward passes."""
    held: dict[int, int] = {}
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal most
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        most = max(most, sum(held.values()))
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        held.clear()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        work()
    return most


def spec_of(preset: str, channels: int, blocks: tuple[int, ...] | None = None, **settings: Any) -> SearchSpec:
    """A search of a preset's space with so many channels, for one budget."""
    space = SearchSpace.preset(preset, channels=channels, **({"blocks": blocks} if blocks else {}))
    budget = round(BUDGET_SHARE * space.complete().multiply_adds)
    return SearchSpec("made", (budget,), space, Settings.preset(preset, **settings))


def data_of(space: SearchSpace, count: int) -> Data:
    """Noise in the shape of the space's images, half of it for W and half for λ."""
    random = generator("bench-supernet")
    shape = (count, space.channels_in, space.image_size, space.image_size)
    images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    labels = torch.randint(0, space.classes, (count,), generator=random)
    half = torch.arange(count).split(count // 2)
    parts = {"weights": half[0], "scaling": half[1], "validation": half[0][:BATCH], "test": half[1][:BATCH]}
    return Data("made", space.classes, TensorImages(images), labels, parts, "made", torch.device("cpu"))


def one_block(channels: int) -> tuple[Work, Work]:
    """Forward and backward pass of one block of the CIFAR-10 preset's first stage."""
    space = SearchSpace.preset("cifar10", channels=channels)
    x = torch.randn(BATCH, channels, space.image_size, space.image_size)
    scaling = torch.rand(len(space.edges())).requires_grad_()

    def work(block: torch.nn.Module) -> Work:
        return lambda: block(x, scaling).sum().backward()

    return work(SupernetBlock(space, channels, first=False)), work(ReferenceBlock(space, channels, first=False))


def iteration(preset: str, channels: int, blocks: tuple[int, ...] | None = None) -> tuple[Work, Work]:
    """One step of W and one of λ with its press, early in a search."""
    spec = spec_of(preset, channels, blocks, batch_size=BATCH)
    data = data_of(spec.space, 8 * BATCH)
    search, plain = Search(spec, data, "cpu"), ReferenceSearch(spec, data)

    def ours() -> None:
        search._weight_step()
        search._scaling_step(0)
        search._press(0.01)

    return ours, plain.iteration


def whole_search() -> tuple[Work, Work]:
    """A whole search on the digits' space, with its removal of what is dead."""
    spec = spec_of("digits", 16, pretrain_epochs=2, search_epochs=12, batch_size=64)
    data = data_of(spec.space, 1200)

    def ours() -> None:
        search = Search(spec, data, "cpu")
        while not search.done:
            search.advance()

    def reference() -> None:
        plain = ReferenceSearch(spec, data)
        for step in range(Search(spec, data, "cpu").steps):
            plain.step(step)

    return ours, reference


PAIRS: dict[str, Callable[[], tuple[Work, Work]]] = {
    "one block of CIFAR-10, 16 channels": lambda: one_block(16),
    "one block of CIFAR-10, 48 channels": lambda: one_block(48),
    "W and λ step, digits": lambda: iteration("digits", 16),
    "W and λ step, CIFAR-10, 16 channels": lambda: iteration("cifar10", 16),
    "W and λ step, CIFAR-10, 48 channels": lambda: iteration("cifar10", 48),
    "whole search, digits": whole_search,
}


class ReferenceSearch:
    """The method as it is written: a plain supernet, and λ, their liveness and the press edge by edge."""

    def __init__(self, spec: SearchSpec, data: Data) -> None:
        self.spec, self.data, self.settings = spec, data, spec.settings
        self.supernet, self.press = ReferenceSupernet(spec.space), Press(spec.space)
        self.factors = [self.supernet.block_scaling, self.supernet.reduction_scaling]
        own = {id(factor) for factor in self.factors}
        self.weights = [one for one in self.supernet.parameters() if one.requires_grad and id(one) not in own]
        settings = self.settings
        self.weight_step = weight_optimizer(self.weights, settings.lr, settings.momentum, settings.weight_decay)
        self.scaling_step = ApgNag(self.factors, settings.scaling_lr, settings.momentum, settings.gamma, settings.clip)
        self.complete = spec.space.complete().multiply_adds

    def step(self, number: int) -> None:
        """A step of the schedule, which pretrains first."""
        per_epoch = len(self.data.parts["weights"]) // self.settings.batch_size
        begin = per_epoch * self.settings.pretrain_epochs
        self.train("weights", number)
        if number >= begin:
            self.scale(number - begin, (number - begin + 1) / (per_epoch * self.settings.search_epochs))

    def iteration(self) -> None:
        """One step of W and one of λ."""
        self.train("weights", 0)
        self.scale(0, 0.01)

    def loss(self, part: str, number: int) -> Tensor:
        """The loss of one batch."""
        images, labels = self.data.batch(
            self.data.parts[part], number, self.settings.batch_size, self.spec.seed, part, None
        )
        return F.cross_entropy(self.supernet(images), labels)

    def train(self, part: str, number: int) -> None:
        """A step of W."""
        self.weight_step.zero_grad()
        self.loss(part, number).backward()
        torch.nn.utils.clip_grad_value_(self.weights, self.settings.clip)
        self.weight_step.step()

    def scale(self, number: int, progress: float) -> None:
        """A step of λ, and the press that follows it."""
        for factor in self.factors:
            factor.grad = None
        self.loss("scaling", number).backward()
        self.scaling_step.step()
        target = self.complete + (self.spec.budgets[0] - self.complete) * progress
        rows, pairs = self.factors[0].tolist(), self.factors[1].tolist()
        shares: list[list[float]] = []
        for row in rows:
            edges = [edge for edge, value in zip(self.press.edges, row, strict=True) if value > 0]
            shares.append([self.press.alive_share(len(shares), live(edges, self.press.space.nodes + 1))] * len(row))
        level, alive, spared = self.press.solve(rows, pairs, shares, target)
        with torch.no_grad():
            for row, edges, kept in zip(self.factors[0], alive, spared, strict=True):
                stays = set(edges)
                row.copy_(torch.where(torch.tensor([e in kept for e in self.press.edges]), row.clamp(min=FLOOR), row))
                row.mul_(torch.tensor([edge in stays for edge in self.press.edges]))
            for pair, values in zip(self.factors[1], pairs, strict=True):
                pair.mul_(torch.tensor(branches(values, level)))


def bookkeeping(preset: str) -> dict[str, Any]:
    """Milliseconds of one core for what a λ step does besides training: strengths, paths, press and cost."""
    spec = spec_of(preset, 2)
    search = Search(spec, data_of(spec.space, 64), "cpu")
    torch.set_num_threads(1)
    times = []
    for number in range(12):
        for factor in search.supernet.scaling_factors():
            factor.grad = torch.randn_like(factor) * 0.01
        begin = time.process_time()
        search._move_scaling_factors()
        search._press(0.05 + 0.02 * number)
        times.append(1000 * (time.process_time() - begin))
    return {"what": f"bookkeeping of a λ step, {preset}", "milliseconds": statistics.median(times[2:])}


def report(rows: list[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = ["| what | times as fast (quartiles) | kept for backward, ours / reference |", "|---|---|---|"]
    for row in rows:
        if "ratio" in row:
            low, high = row["quartiles"]
            ours, reference = row["saved_bytes"]
            lines.append(
                f"| {row['what']} | {row['ratio']:.2f} ({low:.2f} – {high:.2f}) | "
                f"{ours / 2**20:.1f} / {reference / 2**20:.1f} MiB |"
            )
        else:
            lines.append(f"| {row['what']} | {row['milliseconds']:.1f} ms of one core | |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
