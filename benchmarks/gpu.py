"""`make bench-gpu`: how many images a second does a GPU train the supernet of the CIFAR-10 preset on, in what memory?

Each arm is a precision, eager or compiled: an iteration is a step of W, one of λ, and the press. An arm is kept when it
is done, and one that was kept on the same GPU is not measured again, so that the benchmark goes on where it was stopped
(`--minutes`). `--project` needs no GPU: it counts an iteration's operations, and tells what an H100 would make of them
under stated assumptions.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.counting import Asked, Counting
from benchmarks.supernet import data_of, spec_of, table
from nas_core import Search
from nas_core.spec import EngineOptions

FILE = Path("docs/benchmarks/gpu.json")
ARMS = [
    EngineOptions(precision=precision, compile=compiled)
    for precision in ("float32", "tf32", "bfloat16")
    for compiled in (False, True)
]
IMAGES = 22_500
"""CIFAR-10's training images less those of validation, halved: W's, and as many of λ."""
WARM, TIMED = 5, 20

BYTES = 2.3e12
"""A second, of an H100's memory: seven tenths of what is on its data sheet."""
MULTIPLY_ADDS = {"float32": 20e12, "bfloat16": 150e12}
"""A second, of an H100: a third of what it does at most, as products of few columns leave it."""
EAGER, GRAPHED = 5e-6, 2e-6
"""The least seconds of an operation that Python asks for, and of one that a CUDA graph does."""


def main() -> int:
    """Measure the arms that are not kept yet, or project them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cpu tries this script, and keeps nothing")
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=8, help="no arm is begun after so many")
    parser.add_argument("--project", action="store_true", help="count, and tell what an H100 would take")
    options = parser.parse_args()
    if options.project:
        store("projection", projection(options.channels, options.batch))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; --device cpu --channels 2 --batch 4 only tries the script")
    begin = time.monotonic()
    for arm in ARMS:
        if options.device == "cpu" and (arm.precision == "tf32" or arm.compile):
            continue  # there is none, and to compile all blocks takes long
        name = f"{arm.precision}, {'compiled' if arm.compile else 'eager'}, {device_name(options.device)}"
        if options.device == "cpu":
            print(name, measured(arm, options))
        elif name not in kept() and time.monotonic() - begin < 60 * options.minutes:
            store(name, measured(arm, options))
    return 0


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's kind."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def measured(arm: EngineOptions, options: argparse.Namespace) -> dict[str, float]:
    """Images a second of W and λ, the peak of memory, and minutes of a search of 120 + 120 epochs."""
    cuda = options.device == "cuda"
    if cuda:
        gc.collect()  # the last arm's search
        torch.cuda.reset_peak_memory_stats()
    spec = replace(spec_of("cifar10", options.channels, batch_size=options.batch), engine=arm)
    search = Search(spec, data_of(spec.space, 8 * options.batch, options.device), options.device)

    def scale() -> None:
        search._scaling_step(0)
        search._press(0.01)

    def timed(step: Callable[[], object]) -> float:
        begin = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    warm, steps = (WARM, TIMED) if cuda else (1, 1)
    times = [(timed(search._weight_step), timed(scale)) for _ in range(warm + steps)][warm:]
    weights, scaling = (statistics.median(one) for one in zip(*times, strict=True))
    found = told(weights, scaling, options.batch, spec.settings.pretrain_epochs, spec.settings.search_epochs)
    if cuda:
        found["peak_gibibytes"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def told(weights: float, scaling: float, batch: int, pretrain_epochs: int, search_epochs: int) -> dict[str, float]:
    """What seconds of a step of W and of one of λ come to."""
    steps = IMAGES // batch
    return {
        "ms_of_w": 1000 * weights,
        "ms_of_scaling": 1000 * scaling,
        "images_per_second": 2 * batch / (weights + scaling),
        "minutes_of_a_search": steps * (pretrain_epochs * weights + search_epochs * (weights + scaling)) / 60,
    }


def projection(channels: int, batch: int) -> dict[str, Any]:
    """What an H100 would take for the operations of an iteration, which are counted on a CPU for two small batches and
    grow in a straight line: each takes what its multiply-adds or its bytes do, or the least seconds of one.
    """
    (few, settings), (more, _) = (asked(channels, size) for size in (2, 4))
    rows: dict[str, Any] = {}
    for precision, size in (("float32", 1.0), ("bfloat16", 0.5)):
        for way, least in (("eager", EAGER), ("graphed", GRAPHED)):
            seconds = []
            for small, large in zip(few, more, strict=True):
                each = [grown(a, b, batch) for a, b in zip(small, large, strict=True)]
                seconds.append(
                    sum(
                        max(size * one.bytes / BYTES, one.multiply_adds / MULTIPLY_ADDS[precision], least)
                        for one in each
                    )
                )
            found = told(seconds[0], seconds[1], batch, settings.pretrain_epochs, settings.search_epochs)
            rows[f"{precision}, {way}"] = found
    whole = [
        grown(a, b, batch) for small, large in zip(few, more, strict=True) for a, b in zip(small, large, strict=True)
    ]
    counted = {
        "operations": len(whole),
        "multiply_adds": sum(one.multiply_adds for one in whole),
        "bytes": sum(one.bytes for one in whole),
    }
    print(counted)
    print(
        table(
            ("", *next(iter(rows.values()))),
            ((name, *(f"{v:,.1f}" for v in row.values())) for name, row in rows.items()),
        )
    )
    assumed = {"bytes": BYTES, "multiply_adds": MULTIPLY_ADDS, "eager": EAGER, "graphed": GRAPHED}
    return {"channels": channels, "batch": batch, "counted": counted, "assumed": assumed, "rows": rows}


def grown(few: Asked, more: Asked, batch: int) -> Asked:
    """An operation at `batch` images, from what it is at 2 and at 4."""
    each = (more.multiply_adds - few.multiply_adds) / 2, (more.bytes - few.bytes) // 2
    return Asked(few.name, few.multiply_adds + (batch - 2) * each[0], few.bytes + (batch - 2) * each[1])


def asked(channels: int, batch: int) -> Any:
    """What a step of W and one of λ ask for, and the preset's settings."""
    spec = spec_of("cifar10", channels, batch_size=batch)
    search = Search(spec, data_of(spec.space, 128), "cpu")
    search._weight_step()
    search._scaling_step(0)
    with Counting() as weights:
        search._weight_step()
    with Counting() as scaling:
        search._scaling_step(1)
        search._press(0.01)
    return (weights.asked, scaling.asked), spec.settings


def kept() -> dict[str, Any]:
    """What was found before."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def store(name: str, found: dict[str, Any]) -> None:
    """Keep what was found."""
    print(name, found)
    FILE.write_text(json.dumps(kept() | {name: found}, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
