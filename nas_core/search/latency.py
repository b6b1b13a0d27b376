"""How long one image takes on the device at hand: measured of a network, and estimated from a table of its parts.

The table is what a search counts with, thousands of times; what it hands out is measured. All is timed as a
deployment runs it, in evaluation mode, and draws nothing from the global random state.
"""

import copy
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.space import Architecture, Block, Reduction, SearchSpace
from nas_core.space.topology import ConvBnAct, Join, Operate
from nas_core.supernet.layers import batch_norm, convolution, module_of, operation
from nas_core.supernet.network import Network
from nas_core.supernet.references import ReferenceNetwork


class Latency(NamedTuple):
    """How long one image takes, in milliseconds: the median, the 10th and the 90th percentile, on `threads` threads
    of the CPU or on another `device`, whose `model` is told as it names itself.
    """

    median: float
    low: float
    high: float
    threads: int
    device: str = "cpu"
    model: str = ""

    @classmethod
    def of(cls, times: Sequence[float], threads: int, device: torch.device | str) -> Self:
        """What `times` in milliseconds on a device tell."""
        low, median, high = np.percentile(times, [10, 50, 90]).tolist()
        return cls(median, low, high, threads, str(device), device_model(device))

    @property
    def where(self) -> str:
        """The device in words."""
        return f"{self.model or self.device}, CPU threads: {self.threads}"


def device_model(device: torch.device | str) -> str:
    """What a device calls itself, such as "NVIDIA H100 80GB HBM3" or the CPU's model name."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names and names[0] else platform.machine()} (CPU)"


def measure_latency(
    network: Network | ReferenceNetwork,
    threads: int = 1,
    runs: int = 100,
    warm_up: int = 10,
    device: torch.device | str = "cpu",
) -> Latency:
    """Time `runs` forward passes of one image through `network` on `device`, after `warm_up` untimed ones."""
    deployed = copy.deepcopy(network).to(device).eval()
    channels, size, _ = network.architecture.input_shape
    image = _activations(channels, size).to(device)
    times = milliseconds(lambda: deployed(image), torch.device(device), threads, runs, warm_up)
    return Latency.of(times, threads, device)


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of a block's parts in one stage: each operation with its closing BN and ReLU, the `addition` of
    one more input to a sum, the `output` convolution's share of an operation, and the `closing` of a block that is
    not empty, whatever its output reads.
    """

    operations: dict[str, float]
    addition: float
    output: float
    closing: float


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of all parts of a space's networks at the supernet's widths, on one device.

    `reductions` has the 1×1 and the 3×3 branch of each; `rest` is what every network has; `scale` is what the complete
    network takes over the sum of its parts.
    """

    stages: tuple[StageTimes, ...]
    reductions: tuple[tuple[float, float], ...]
    rest: float
    scale: float = 1.0

    def estimate(self, architecture: Architecture) -> float:
        """About how many milliseconds one image takes with the live edges of `architecture`, whatever its widths."""
        total = self.rest
        for part in architecture.parts():
            times = self.stages[part.stage]
            for step in part.steps:
                match step:
                    case Operate():
                        total += times.operations[step.operation] + (len(step.reads) - 1) * times.addition
                    case Join():
                        total += len(step.reads) * times.output + times.closing
                    case ConvBnAct() if part.kind == "reduction":
                        total += self.reductions[part.stage][step.kernel > 1]
        return self.scale * total

    def penalty_weights(self, space: SearchSpace) -> list[list[float]]:
        """The L1 weights of adaptive latency, for each vector of λ, in the order of `space.edges()`.

        An edge weighs 0.5, and up to 0.5 more by the time that goes with its target, as a share of the largest such
        time of any edge (as in the published code, which measures it edge by edge).
        """
        groups = [space.stage_of_block] if space.share else [(stage,) for stage in space.stage_of_block]

        def saved(stage: int, target: int) -> float:
            times = self.stages[stage]
            return times.output if target > space.nodes else times.operations[space.operation(target)]

        vectors = [[sum(saved(stage, target) for stage in group) for _, target in space.edges()] for group in groups]
        largest = max(map(max, vectors))
        return [[0.5 + 0.5 * time / largest for time in vector] for vector in vectors]

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The table that `to_dict` described."""
        stages = tuple(StageTimes(**stage) for stage in values["stages"])
        return cls(
            stages, tuple((small, wide) for small, wide in values["reductions"]), values["rest"], values["scale"]
        )


def measure_table(space: SearchSpace, device: torch.device | str, threads: int) -> LatencyTable:
    """Measure the parts of the networks of `space` on `device`; takes from seconds to a minute or two.

    What takes shorter than a clock can tell, or than a GPU takes to answer, is run several times in a row.
    """
    device = torch.device(device)

    def ms(run: Callable[[], object]) -> float:
        return float(np.median(milliseconds(run, device, threads, runs=20, warm_up=3, repeats=10)))

    def whole(architecture: Architecture) -> float:
        return measure_latency(Network(architecture), threads, runs=50, device=device).median

    with torch.random.fork_rng(devices=[]):
        stages = tuple(
            _measure_stage(space, width, _activations(width, space.resolution(stage)).to(device), ms)
            for stage, width in enumerate(space.widths)
        )
        complete = space.complete()
        reductions = []
        for part in complete.parts():
            if part.kind == "reduction":
                x = _activations(part.channels, part.size).to(device)
                small, wide = (ms(partial(module_of(step).to(device).eval(), x)) for step in part.steps)
                reductions.append((small, wide))
        blocks = (Block(()),) * sum(space.blocks)
        bare = Architecture(space, space.widths, blocks, (Reduction(1.0, 0.0),) * len(reductions))
        rest = max(0.0, whole(bare) - sum(small for small, _ in reductions))
        unscaled = LatencyTable(stages, tuple(reductions), rest).estimate(complete)
        return LatencyTable(stages, tuple(reductions), rest, whole(complete) / unscaled)


def _measure_stage(
    space: SearchSpace, width: int, x: Tensor, ms: Callable[[Callable[[], object]], float]
) -> StageTimes:
    def timed(*layers: nn.Module) -> float:
        module = nn.Sequential(*layers).to(x.device).eval()
        return ms(lambda: module(x))

    def output(count: int) -> float:
        module = nn.Sequential(convolution(1, count * width, width), batch_norm(width)).to(x.device).eval()
        return ms(lambda: x + F.relu(module(torch.cat([x] * count, 1))))

    one, all_of_them = output(1), output(space.nodes)
    share = max(0.0, (all_of_them - one) / (space.nodes - 1)) if space.nodes > 1 else one
    return StageTimes(
        operations={name: timed(operation(name, width), batch_norm(width), nn.ReLU()) for name in space.operations},
        addition=ms(lambda: x + x),
        output=share,
        closing=max(0.0, one - share),
    )


def _activations(channels: int, size: int) -> Tensor:
    return torch.randn((1, channels, size, size), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def milliseconds(
    run: Callable[[], object], device: torch.device, threads: int, runs: int, warm_up: int, repeats: int = 1
) -> list[float]:
    """How long each of `runs` runs takes, `repeats` in a row measured together, after `warm_up` untimed ones."""
    before = torch.get_num_threads()
    times = []
    torch.set_num_threads(threads)
    try:
        for _ in range(warm_up + runs):
            begin = time.perf_counter()
            for _ in range(repeats):
                run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append((time.perf_counter() - begin) * 1000 / repeats)
    finally:
        torch.set_num_threads(before)
    return times[warm_up:]
