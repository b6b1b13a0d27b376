"""`make bench-supernet`: how much faster than the plainest correct supernet is the one that searches?

Both take the same steps on the same images in turn, on one core, so that a busy machine slows down both; what is given
is the ratio of each pair of processor times, its median and its quartiles. Memory is what autograd keeps for the
backward pass, and operations are counted: neither is timed. The floor (`benchmarks.floor`) is measured in turn with
ours too. Every row is kept when it is found, so that `--only` takes the benchmark in parts.
"""

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from benchmarks.counting import Counting
from benchmarks.floor import Work as Needed
from benchmarks.floor import block_work, floor, iteration_work
from benchmarks.profiled import shares
from benchmarks.reference_supernet import ReferenceBlock, ReferenceSupernet
from nas_core import ApgNag, Search, SearchSpace
from nas_core.data.images import TensorImages
from nas_core.data.loading import Data
from nas_core.search.press import Press
from nas_core.search.schedule import Schedule
from nas_core.search.spending import FLOOR
from nas_core.seeds import generator
from nas_core.space import branches, live
from nas_core.spec import SearchSpec, Settings
from nas_core.supernet.supernet import SupernetBlock
from nas_core.train.steps import weight_optimizer

FILE = Path("docs/benchmarks/supernet.json")
BATCH, OF_CIFAR10, OF_WIDE = 32, 16, 8
"""Images of a step, and of one of the whole CIFAR-10 supernet with 16 and with 48 channels."""
BUDGET_SHARE = 0.3

Work = Callable[[], object]


class Pair(NamedTuple):
    """Ours and the reference, what the floor of both is made of, where they have one, and whether to profile both: the
    profiler keeps every event, for which the memory has to suffice.
    """

    ours: Work
    reference: Work
    needed: Needed | None = None
    profiled: bool = False


def main() -> int:
    """Measure every pair, keep each as it is found, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how often each pair is timed")
    parser.add_argument("--only", default="", help="the rows whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    for name, make in ROWS.items():
        if options.only in name:
            store({"what": name} | make(name, options.pairs))
    print(report(json.loads(FILE.read_text())["rows"]))
    return 0


def keep_memory() -> None:
    """Have the process keep what it frees, as a search does by itself: alone, a block's memory is given back, and asked
    of the system anew, at every pass.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**25)
        library.mallopt(trim_threshold, 2**31 - 1)


def store(row: dict[str, Any]) -> None:
    """Put a row in the file, in place of the one that had its name."""
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    found = {one["what"]: one for one in rows} | {row["what"]: row}
    ordered = [found[name] for name in ROWS if name in found]
    record = {
        "torch": torch.__version__,
        "threads": 1,
        "batch": {"CIFAR-10": OF_CIFAR10, "other": BATCH},
        "rows": ordered,
    }
    FILE.write_text(json.dumps(record, indent=1) + "\n")


def measure(make: Callable[[], Pair], name: str, pairs: int) -> dict[str, Any]:
    """Time ours, the reference and the floor in turn, and count what is launched and kept, in a round not timed."""
    pair = make()
    pair.ours()  # what lasts is made the first time
    ours, reference = counted(pair.ours), counted(pair.reference)
    ratios, multiples, floors = [], [], []
    for _ in track(range(pairs), name):
        own = seconds(pair.ours)
        ratios.append(seconds(pair.reference) / own)
        if pair.needed is not None:
            floors.append(floor(pair.needed))
            multiples.append([own / floors[-1].seconds(cached) for cached in (False, True)])
    row = {"ratio": spread(ratios), "ours": ours, "reference": reference}
    if floors:
        row["multiple"], row["multiple_cached"] = [*map(spread, zip(*multiples, strict=True))]
        row["floor"] = {
            part: 1000 * statistics.median(getattr(one, part) for one in floors) for part in floors[0]._fields
        }
    if pair.profiled:
        row["profile"] = {"ours": shares(pair.ours), "reference": shares(pair.reference)}
    return row


def spread(values: Any) -> list[float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return [median, low, high]


def seconds(work: Work) -> float:
    """How long a core computes for it."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def counted(work: Work) -> dict[str, int]:
    """What it launches, and the most bytes that autograd keeps at once for backward passes."""
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

    with Counting() as counting, torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        work()
    return {"launched": len(counting.asked), "saved_bytes": most}


def spec_of(preset: str, channels: int, blocks: tuple[int, ...] | None = None, **settings: Any) -> SearchSpec:
    """A search of a preset's space with so many channels, for one budget."""
    space = SearchSpace.preset(preset, channels=channels, **({"blocks": blocks} if blocks else {}))
    budget = round(BUDGET_SHARE * space.complete().multiply_adds)
    return SearchSpec("made", (budget,), space, Settings.preset(preset, **settings))


def data_of(space: SearchSpace, count: int, device: str = "cpu") -> Data:
    """Noise in the shape of the space's images on `device`, half of it for W and half for λ."""
    random = generator("bench-supernet")
    shape = (count, space.channels_in, space.image_size, space.image_size)
    images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    labels = torch.randint(0, space.classes, (count,), generator=random)
    half = torch.arange(count).split(count // 2)
    parts = {"weights": half[0], "scaling": half[1], "validation": half[0][:BATCH], "test": half[1][:BATCH]}
    return Data("made", space.classes, TensorImages(images.to(device)), labels, parts, "made", torch.device(device))


def one_block(channels: int, precision: torch.dtype = torch.float32) -> Pair:
    """Forward and backward pass of one block of the CIFAR-10 preset's first stage, with what it has in a network: ours
    (B, H, W, C) in memory, in `precision`, and the reference (B, C, H, W) in float32.
    """
    space = SearchSpace.preset("cifar10", channels=channels)
    x, gradient = torch.randn(2, BATCH, channels, space.image_size, space.image_size).unbind()
    scaling = torch.rand(len(space.edges())).requires_grad_()

    def work(block: torch.nn.Module, x: Tensor, gradient: Tensor) -> Work:
        x.requires_grad_()

        def both_passes() -> None:
            with torch.autocast("cpu", precision, enabled=x.dtype != torch.float32):
                given = block(x, scaling)
            given.backward(gradient)

        return both_passes

    own = [one.to(precision, memory_format=torch.channels_last, copy=True) for one in (x, gradient)]
    ours = work(SupernetBlock(space, channels, first=False), *own)
    plain = precision == torch.float32
    reference = work(ReferenceBlock(space, channels, first=False), x, gradient)
    return Pair(ours, reference, block_work(space, BATCH) if plain else None, profiled=plain)


def iteration(preset: str, channels: int, batch: int = BATCH, precision: str = "float32") -> Pair:
    """One step of W and one of λ with its press, early in a search; ours in `precision`."""
    spec = spec_of(preset, channels, batch_size=batch)
    data = data_of(spec.space, 8 * batch)
    engine = replace(spec.engine, precision=precision)
    search, plain = Search(replace(spec, engine=engine), data, "cpu"), ReferenceSearch(spec, data)

    def ours() -> None:
        search._weight_step()
        search._scaling_step(0)
        search._press(0.01)

    needed = iteration_work(spec.space, batch) if precision == "float32" else None
    return Pair(ours, plain.iteration, needed, profiled=needed is not None and channels == 16)


def whole_search(precision: str) -> Pair:
    """A whole search on the digits' space, with its removal of what is dead; ours in `precision`."""
    spec = spec_of("digits", 16, pretrain_epochs=2, search_epochs=12, batch_size=64)
    data = data_of(spec.space, 600)
    engine = replace(spec.engine, precision=precision)

    def ours() -> None:
        search = Search(replace(spec, engine=engine), data, "cpu")
        while not search.done:
            search.advance()

    def reference() -> None:
        plain = ReferenceSearch(spec, data)
        for step in range(Search(spec, data, "cpu").steps):
            plain.step(step)

    return Pair(ours, reference)


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
        self.schedule = Schedule(spec.space.complete().multiply_adds, spec.budgets)

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
        were = [factor.detach().clone() for factor in self.factors]
        self.scaling_step.step()
        with torch.no_grad():
            for factor, was in zip(self.factors, were, strict=True):
                factor.copy_(torch.where(factor > 0, factor, was))
        target = self.schedule.target(progress)
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
    times = []
    for number in range(12):
        for factor in search.supernet.scaling_factors():
            factor.grad = torch.randn_like(factor) * 0.01
        begin = time.process_time()
        search._move_scaling_factors()
        search._press(0.05 + 0.02 * number)
        times.append(1000 * (time.process_time() - begin))
    return {"milliseconds": statistics.median(times[2:])}


PAIRS: dict[str, Callable[[], Pair]] = {
    "a block, 16 channels": lambda: one_block(16),
    "a block, 48 channels": lambda: one_block(48),
    "a block, 16 channels, bfloat16": lambda: one_block(16, torch.bfloat16),
    "a block, 48 channels, bfloat16": lambda: one_block(48, torch.bfloat16),
    "W and λ, digits": lambda: iteration("digits", 16),
    "W and λ, digits, bfloat16": lambda: iteration("digits", 16, precision="bfloat16"),
    "W and λ, CIFAR-10, 16 channels": lambda: iteration("cifar10", 16, OF_CIFAR10),
    "W and λ, CIFAR-10, 16 channels, bfloat16": lambda: iteration("cifar10", 16, OF_CIFAR10, "bfloat16"),
    "W and λ, CIFAR-10, 48 channels": lambda: iteration("cifar10", 48, OF_WIDE),
    "whole search, digits": lambda: whole_search("float32"),
    "whole search, digits, bfloat16": lambda: whole_search("bfloat16"),
}

ROWS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    **{name: partial(measure, make) for name, make in PAIRS.items()},
    "bookkeeping of a λ step, cifar10": lambda *_: bookkeeping("cifar10"),
    "bookkeeping of a λ step, imagenet": lambda *_: bookkeeping("imagenet"),
}


def report(rows: list[dict[str, Any]]) -> str:
    """The tables in Markdown."""
    paired = [row for row in rows if "ratio" in row]
    floored = [row for row in paired if "floor" in row]
    profiled = [row for row in paired if "profile" in row]
    return "\n\n".join(
        (
            table(
                ("ours over the reference", "times as fast", "launched", "kept, MiB"),
                ((row["what"], told(row["ratio"]), launched(row), kept(row)) for row in paired),
            ),
            table(
                ("bookkeeping", "ms of one core"),
                ((row["what"], f"{row['milliseconds']:.1f}") for row in rows if "milliseconds" in row),
            ),
            table(
                ("floor", "products, ms", "depthwise", "memory", "from cache", "ours is so many times it", "cached"),
                (
                    (
                        row["what"],
                        *(f"{value:.1f}" for value in row["floor"].values()),
                        told(row["multiple"]),
                        told(row["multiple_cached"]),
                    )
                    for row in floored
                ),
            ),
            table(
                ("share of time, %", *(profiled[0]["profile"]["ours"] if profiled else ())),
                (
                    (f"{row['what']}, {whose}", *(f"{100 * share:.0f}" for share in row["profile"][whose].values()))
                    for row in profiled
                    for whose in ("ours", "reference")
                ),
            ),
        )
    )


def table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    heads = [*names]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))


def told(values: Sequence[float]) -> str:
    """A median and its quartiles."""
    return f"{values[0]:.2f} ({values[1]:.2f} – {values[2]:.2f})"


def launched(row: dict[str, Any]) -> str:
    """What ours and the reference launch."""
    return f"{row['ours']['launched']:,} / {row['reference']['launched']:,}"


def kept(row: dict[str, Any]) -> str:
    """What ours and the reference keep for the backward pass."""
    return " / ".join(f"{row[whose]['saved_bytes'] / 2**20:.1f}" for whose in ("ours", "reference"))


if __name__ == "__main__":
    raise SystemExit(main())
