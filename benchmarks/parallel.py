"""`make bench-parallel`: what do several workers gain, and what do they say to each other?

A search iteration of the CIFAR-10 preset (a step of W, one of λ, the press), with few channels, is taken by 1, 2 and 4
processes that share the same images, joined by gloo, each with one thread on a core of its own while there are cores.
All take turns, round by round. Two processes that know nothing of each other, with half of the images each, show what
two cores could do at most. Messages and bytes are counted. What GPUs would reach is a projection from these counts.

Then networks that compete for two budgets are retrained: by one process, by two that share the batches of one network
after the other, and by two that each train networks of their own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from benchmarks.supernet import data_of, spec_of
from nas_core import Search, SearchSpace, Supernet
from nas_core.finals import baseline
from nas_core.race import Contender, Race
from nas_core.spec import FinalsOptions

FILE = Path("docs/benchmarks/parallel.json")
BATCH, CHANNELS = 64, 8
ROOT = str(Path(__file__).resolve().parents[1])


class Arm(NamedTuple):
    """Processes that take an iteration together, or `apart`; with BN `synchronised` or not. In a `race` they retrain
    networks, together or apart."""

    name: str
    workers: int
    apart: bool = False
    synchronised: bool = True
    tree: str = ROOT
    race: bool = False


ARMS = [
    Arm("1 process", 1),
    Arm("2 that know nothing of each other", 2, apart=True),
    Arm("2 processes", 2),
    Arm("2 processes, BN not synchronised", 2, synchronised=False),
    Arm("4 processes on 2 cores", 4),
]

RACES = [
    Arm("finals: 1 process", 1, race=True),
    Arm("finals: 2 that share batches", 2, race=True),
    Arm("finals: 2 with networks of their own", 2, apart=True, race=True),
]


class Link(NamedTuple):
    """GPUs, and what is assumed of the way between them."""

    name: str
    gpus: int
    latency: float
    """Seconds that a small all-reduce takes."""
    bandwidth: float
    """Bytes a second that each GPU sends and receives in a large one."""


LINKS = [Link("8 GPUs (NVLink)", 8, 20e-6, 300e9), Link("4 nodes of 8 (400 Gbit/s a GPU)", 32, 50e-6, 40e9)]
MULTIPLY_ADDS = 25e12
"""A second, of one GPU: a twentieth of what an H100 multiplies in bf16 at most, as small channels leave it."""
PASSES = 3
"""A forward and a backward pass, in forward passes."""
OVERLAPPED = 0.5
"""The share of a step in which gradients are there to be sent while others are computed."""


def main() -> int:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", help="a checkout of an older commit, to be measured beside this one")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(Arm(**json.loads(options.worker[0])), Path(options.worker[1]))
    arms = [*ARMS, *([Arm("2 processes, before", 2, tree=options.before)] if options.before else [])]
    rounds = [{arm.name: run(arm) for arm in [*arms, *RACES]} for _ in track(range(options.rounds), "rounds")]
    rows = [row(arm, [(one[ARMS[0].name], one[arm.name]) for one in rounds]) for arm in arms]
    rows += [row(arm, [(one[RACES[0].name], one[arm.name]) for one in rounds]) for arm in RACES]
    projected = [projection(link, synchronised) for link in LINKS for synchronised in (True, False)]
    cores = len(os.sched_getaffinity(0))
    record = {"torch": torch.__version__, "cores": cores, "batch": BATCH, "channels": CHANNELS, "rows": rows}
    FILE.write_text(json.dumps(record | {"projection": projected}, indent=1) + "\n")
    report(rows, projected)
    return 0


def run(arm: Arm) -> dict[str, Any]:
    """One iteration of an arm, in processes of its own, after another that is not timed."""
    with tempfile.TemporaryDirectory() as folder:
        # Not from this file's folder: its modules have names of others.
        environment = os.environ | {"PYTHONPATH": arm.tree, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--worker", json.dumps(arm._asdict()), folder]
        running = [
            subprocess.Popen(command, env=environment | {"RANK": str(rank)}, cwd=arm.tree)
            for rank in range(arm.workers)
        ]
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError(f"a process of {arm.name} failed")
        found: list[dict[str, Any]] = [
            json.loads((Path(folder) / str(rank)).read_text()) for rank in range(arm.workers)
        ]
    return found[0] | {"seconds": max(one["seconds"] for one in found)}


def worker(arm: Arm, folder: Path) -> int:
    """One process of an arm: leaves how long an iteration took it, and its messages."""
    rank = int(os.environ["RANK"])
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=arm.workers)
    if arm.race:
        return race(arm, folder / str(rank))
    spec = spec_of("cifar10", CHANNELS, batch_size=BATCH // arm.workers if arm.apart else BATCH)
    if not arm.synchronised:
        spec = replace(spec, engine=replace(spec.engine, synchronised_bn=False))
    if arm.apart:
        dist.barrier()
        dist.destroy_process_group()
    data = data_of(spec.space, 4 * BATCH)
    search = Search(spec, data, "cpu")
    sent: list[int] = []
    all_reduce = dist.all_reduce

    def counting(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **options)

    counts = {}
    dist.all_reduce = counting
    for name, step in (("W", search._weight_step), ("λ", lambda: search._scaling_step(0))):
        step()
        counts[name] = {"messages": len(sent), "bytes": sum(sent)}
        sent.clear()
    dist.all_reduce = all_reduce
    search._press(0.01)
    meet()
    begin = time.perf_counter()
    search._weight_step()
    search._scaling_step(1)
    search._press(0.02)
    seconds = time.perf_counter() - begin
    (folder / str(rank)).write_text(json.dumps({"seconds": seconds, "counts": counts}))
    meet()
    return 0


def race(arm: Arm, file: Path) -> int:
    """One process of several that retrain networks for two budgets: leaves how long it took them."""
    spec = spec_of("cifar10", CHANNELS, retrain_batch_size=BATCH, retrain_epochs=4)
    budgets = (spec.budgets[0] // 2, spec.budgets[0])
    spec = replace(spec, budgets=budgets, finals=FinalsOptions(baselines=("resnet", "mobilenetv3")))
    origins = [(budget, origin) for budget in budgets for origin in ("random", *spec.finals.baselines)]
    contenders = [
        Contender(trial, budget, "search" if origin == "random" else origin, baseline(origin, spec, budget, 0))
        for trial, (budget, origin) in enumerate(origins)
    ]
    data = data_of(spec.space, 4 * BATCH)
    running = Race(spec, contenders, data, "cpu", lambda budget: None, None, lambda network: arm.apart)
    meet()
    begin = time.perf_counter()
    while not running.done:
        running.advance()
    meet()
    file.write_text(json.dumps({"seconds": time.perf_counter() - begin, "counts": {}}))
    return 0


def meet() -> None:
    """Wait for the others, where there are others."""
    if dist.is_initialized():
        dist.barrier()


def row(arm: Arm, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """An arm beside one process: how much sooner it is done, for each core that it has."""
    used = min(arm.workers, len(os.sched_getaffinity(0)))
    efficiencies = [alone["seconds"] / one["seconds"] / used for alone, one in pairs]
    low, median, high = statistics.quantiles(efficiencies, n=4) if len(pairs) > 1 else efficiencies * 3
    seconds = statistics.median(one["seconds"] for _, one in pairs)
    told = {"what": arm.name, "workers": arm.workers, "cores": used, "seconds": seconds}
    return told | {"efficiency": median, "quartiles": [low, high], "counts": pairs[0][1]["counts"]}


def projection(link: Link, synchronised: bool) -> dict[str, Any]:
    """What a step of W of the whole CIFAR-10 preset would take, with its batch on every GPU."""
    space = SearchSpace.preset("cifar10")
    with torch.device("meta"):
        supernet = Supernet(space)
    size = sum(weight.numel() * weight.element_size() for weight in supernet.weights())
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in supernet.modules())
    batch = spec_of("cifar10", space.channels).settings.batch_size
    computing = PASSES * space.complete().multiply_adds * batch / MULTIPLY_ADDS
    waiting = 2 * norms * link.latency if synchronised else 0.0
    # A ring sends everything twice but for one GPU's share.
    sending = 2 * (link.gpus - 1) / link.gpus * size / link.bandwidth + link.latency
    step = computing + waiting + max(link.latency, sending - OVERLAPPED * computing)
    return {
        "what": link.name,
        "synchronised_bn": synchronised,
        "latency_us": link.latency * 1e6,
        "gigabytes_per_second": link.bandwidth / 1e9,
        "images_per_gpu": batch,
        "bn_layers": norms,
        "gradient_megabytes": size / 1e6,
        "computing_ms": computing * 1e3,
        "bn_ms": waiting * 1e3,
        "sending_ms": sending * 1e3,
        "efficiency": computing / step,
    }


def report(rows: list[dict[str, Any]], projected: list[dict[str, Any]]) -> None:
    """Print what was found."""
    table = Table("", "seconds", "efficiency", "quartiles", "W: messages, MB", "λ: messages, MB")
    for one in rows:
        counts = [f"{c['messages']}, {c['bytes'] / 1e6:.2f}" for c in one["counts"].values()]  # of races there are none
        low, high = one["quartiles"]
        table.add_row(
            one["what"], f"{one['seconds']:.2f}", f"{one['efficiency']:.2f}", f"{low:.2f}-{high:.2f}", *counts
        )
    told = Table("projected", "BN synchronised", "computing", "BN", "gradients", "efficiency")
    for one in projected:
        times = [f"{one[name]:.2f} ms" for name in ("computing_ms", "bn_ms", "sending_ms")]
        told.add_row(one["what"], str(one["synchronised_bn"]), *times, f"{one['efficiency']:.2f}")
    Console().print(table, told)


if __name__ == "__main__":
    raise SystemExit(main())
