"""`make bench-controls`: has a space something to gain? Networks drawn by hand that differ by one thing each.

All cost the same and are trained alike on photographs: with another operation in each block, other widths of the
stages, another stem, other depths. What was measured so far is kept in a file, so that a run which is cut goes on.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy.stats import ttest_ind

from benchmarks.common import SCRATCH, data_of, run_all
from benchmarks.recipes import BUDGET, SPACE, add_data, first_of
from nas_core.search.spending import fit_widths
from nas_core.space import Architecture, Block, Edge, Reduction, SearchSpace, cost
from nas_core.space.topology import Operate
from nas_core.spec import SearchSpec, Settings
from nas_core.train.retrain import Retraining

FILE = Path("docs/benchmarks/controls.jsonl")
PHOTOGRAPHS = SCRATCH / "controls"
TEST = 1000
"""Images of each class that are tested: all of CIFAR-10's."""


def row(
    *operations: str, beside: bool = False, profile: tuple[float, ...] = (1, 2, 4), **fields: Any
) -> Callable[[], Architecture]:
    """Draws `operations` one after another in each block, or `beside` each other, and 3×3 reductions.

    The widths of the stages are as `profile`, and as large as the budget allows; `fields` of the space differ.
    """

    def drawn() -> Architecture:
        space: SearchSpace = replace(SPACE, operations=tuple(dict.fromkeys(operations)), **fields)
        kinds, output = len(space.operations), space.nodes + 1
        nodes = [
            1 + space.operations.index(name) + kinds * (0 if beside else level) for level, name in enumerate(operations)
        ]
        edges = [(0, node) for node in nodes] + [(node, output) for node in nodes]
        if not beside:
            edges = list(zip([0, *nodes], [*nodes, output], strict=True))
        block = Block(tuple(Edge(*edge, 1.0) for edge in edges))
        reductions = (Reduction(0.0, 1.0),) * (len(space.blocks) - 1)
        widths = tuple(round(64 * share) for share in profile)
        return fit_widths(Architecture(space, widths, (block,) * sum(space.blocks), reductions), BUDGET)

    return drawn


CONTROLS: dict[str, Callable[[], Architecture]] = {
    "separable3": row("separable3"),
    "convolution3": row("convolution3"),
    "inverted_bottleneck3": row("inverted_bottleneck3"),
    "inverted_bottleneck3_e6": row("inverted_bottleneck3_e6"),
    "inverted_bottleneck3_plain": row("inverted_bottleneck3_plain"),
    "separable3_se": row("separable3_se"),
    "depthwise3": row("depthwise3"),
    "dilated3": row("dilated3"),
    "equal widths": row("separable3", profile=(1, 1, 1)),
    "widths × 1.4": row("separable3", profile=(1, 1.4, 2)),
    "widths × 2.8": row("separable3", profile=(1, 2.8, 8)),
    "stem of stride 1": row("separable3", stem=(1,)),
    "stem of strides 2, 1": row("separable3", stem=(2, 1)),
    "stem of strides 2, 2": row("separable3", stem=(2, 2)),
    "two separable3 in a row": row("separable3", "separable3"),
    "two blocks a stage": row("separable3", blocks=(2, 2, 2)),
    "two stages": row("separable3", blocks=(1, 1), profile=(1, 2)),
    "four stages": row("separable3", blocks=(1, 1, 1, 1), profile=(1, 2, 4, 8)),
    "inverted_bottleneck5": row("inverted_bottleneck5"),
    "separable5": row("separable5"),
    "separable3 and separable5 beside": row("separable3", "separable5", beside=True),
    "identity": row("identity"),
}


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--controls", nargs="+", choices=list(CONTROLS), default=list(CONTROLS))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    first_of(options.data, parser, PHOTOGRAPHS, TEST)
    jobs = [
        {"control": control, "seed": seed, "epochs": options.epochs}
        for seed in options.seeds
        for control in options.controls
    ]
    print(report([one for one in run_all(trained, jobs, FILE) if one["epochs"] == options.epochs]))


def trained(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One control, trained and tested."""
    torch.set_num_threads(1)
    settings = Settings.preset("cifar10", retrain_epochs=job["epochs"], recipe="standard")
    architecture, start = CONTROLS[job["control"]](), time.process_time()
    spec = SearchSpec(str(PHOTOGRAPHS), (BUDGET,), SPACE, settings, seed=job["seed"])
    training = Retraining(spec, architecture, data_of(spec), "cpu")
    while not training.done:
        training.advance()
    found = {"widths": list(architecture.widths), "multiply_adds": architecture.multiply_adds}
    told = {"parameters": architecture.parameters, "seconds": round(time.process_time() - start)}
    return [job | found | told | {"accuracy": training.test().accuracy}]


def report(records: list[dict[str, Any]]) -> str:
    """The controls as a table in Markdown, the best first."""
    reached: dict[str, list[float]] = {}
    for record in records:
        reached.setdefault(record["control"], []).append(record["accuracy"])
    first = next(iter(CONTROLS))
    lines = [
        f"| network | channels | in operations | n | test accuracy | deviation | above {first} | p (Welch) |",
        "|---" * 8 + "|",
    ]
    for control, own in sorted(reached.items(), key=lambda item: -mean(item[1])):
        network = CONTROLS[control]()
        cells = [control, "/".join(map(str, network.widths)), f"{in_operations(network):.0%}", str(len(own))]
        cells += [f"{mean(own):.4f}", f"{stdev(own):.4f}" if len(own) > 1 else "", "", ""]
        if control != first and first in reached:
            cells[6] = f"{mean(own) - mean(reached[first]):+.4f}"
            if min(len(own), len(reached[first])) > 1:
                cells[7] = f"{ttest_ind(own, reached[first], equal_var=False).pvalue:.2g}"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_operations(network: Architecture) -> float:
    """The share of a network's multiply-adds that lies in its operations: what a search decides by choosing them."""
    steps = [step for part in network.parts() for step in part.steps]
    chosen = sum(cost.of(step).multiply_adds for step in steps if isinstance(step, Operate))
    return float(chosen / network.multiply_adds)


if __name__ == "__main__":
    main()
