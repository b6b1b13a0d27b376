"""`make bench-budget`: is the budget kept, whatever the space, the budget and the seed?

Random draws of a space, shared or full, a feasible budget and a seed are searched for; the network is built on meta
tensors and counted by torch's own counter. Spaces have two or three stages, as the presets do: in a single stage of few
channels some budgets lie between what any network of the space costs.
"""

import argparse
import math
import random
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import SCRATCH, run_all
from nas_core import Architecture, Network, Search, SearchSpace
from nas_core.data.loading import load
from nas_core.search.spending import LEAST_USED
from nas_core.space.operations import OPERATION_SETS
from nas_core.spec import SearchSpec, Settings


def main() -> int:
    """Draw, search, count; returns 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="the number of the first draw; others see other draws")
    options = parser.parse_args()
    file = SCRATCH / "budget.jsonl"
    file.unlink(missing_ok=True)
    draws = range(options.first, options.first + options.draws)
    records = run_all(budget_run, [{"draw": draw} for draw in draws], Path(file))
    kept = [r for r in records if LEAST_USED * r["budget"] <= r["counted"] <= r["budget"] and r["counted"] == r["told"]]
    used = sorted(r["counted"] / r["budget"] for r in records)
    print(f"{len(kept)} of {len(records)} within the promise; used {used[0]:.2%} to {used[-1]:.2%}")
    for record in records:
        if record not in kept:
            print("broken:", record)
    return int(len(kept) < len(records))


def budget_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One draw: a short search on the digits, and what its network costs by two counts."""
    torch.set_num_threads(1)
    drawn = random.Random(job["draw"])
    stages = drawn.randint(2, 3)
    space = SearchSpace.preset(
        "digits",
        channels=drawn.randint(8, 20),
        blocks=[drawn.randint(1, 2) for _ in range(stages)],
        levels=drawn.randint(1, 4),
        share=drawn.random() < 0.5,
        operations=drawn.choice(list(OPERATION_SETS)),
    )
    smallest, largest = space.feasible_budgets()
    # Small budgets are the hard ones: as many draws below 10 % of the range as above.
    budget = round(smallest * math.exp(drawn.random() * math.log(largest / smallest)))
    settings = Settings.preset("digits", pretrain_epochs=1, search_epochs=2)
    spec = SearchSpec("digits", (budget,), space, settings, seed=drawn.randrange(1000))
    search = Search(spec, load(spec, [], "cpu"), "cpu")
    while not search.done:
        search.advance()
    found = search.architectures[budget]
    record = {"channels": space.channels, "blocks": list(space.blocks), "levels": space.levels, "share": space.share}
    record["operations"] = list(space.operations)
    return [job | record | {"budget": budget, "told": found.multiply_adds, "counted": counted(found)}]


def counted(architecture: Architecture) -> int:
    """Multiply-adds of one image's forward pass, by torch's counter."""
    space = architecture.space
    with torch.device("meta"):
        network = Network(architecture).eval()
        image = torch.zeros(1, space.channels_in, space.image_size, space.image_size)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


if __name__ == "__main__":
    raise SystemExit(main())
