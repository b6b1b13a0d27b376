"""`make bench-budget`: is the budget kept, whatever the space, the budget and the seed?

Random draws of a space (operations and stems among what differs), shared or full, a feasible budget and a seed are
searched for; the network is built on meta tensors and counted by torch's own counter. Spaces have two or three stages,
as the presets do: in a single stage of few channels some budgets lie between what any network of the space costs.

As many draws of a family of reference networks, images and a budget are made as large as that budget and counted alike.
"""

import argparse
import math
import random
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import SCRATCH, run_all
from nas_core import Search, SearchSpace
from nas_core.data.loading import load
from nas_core.search.references import candidates, fit_reference
from nas_core.search.spending import LEAST_USED
from nas_core.space import FAMILIES, Architecture, Reference
from nas_core.space.operations import OPERATION_SETS
from nas_core.spec import SearchSpec, Settings
from nas_core.supernet.references import build

STEMS = ((1,), (2,), (1, 1), (2, 1), (2, 2))
IMAGE_SIZES = (8, 16, 28, 32, 64, 96, 160, 224)


def main() -> int:
    """Draw, search, count; returns 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--first", type=int, default=0, help="the number of the first draw; others see other draws")
    options = parser.parse_args()
    file = SCRATCH / "budget.jsonl"
    file.unlink(missing_ok=True)
    draws = range(options.first, options.first + options.draws)
    jobs = [{"draw": draw, "origin": origin} for origin in ("search", "reference") for draw in draws]
    records, broken = run_all(budget_run, jobs, Path(file)), []
    for origin in ("search", "reference"):
        own = [one for one in records if one["origin"] == origin]
        broken += (wrong := [one for one in own if not kept(one)])
        used = sorted(one["counted"] / one["budget"] for one in own)
        told = f"{len(own) - len(wrong)} of {len(own)} within the promise; used {used[0]:.2%} to {used[-1]:.2%}"
        print(f"{origin}: {told}")
    for one in broken:
        print("broken:", one)
    return int(bool(broken))


def kept(record: dict[str, Any]) -> bool:
    """Whether a network keeps its budget and uses it up, and costs what is told of it."""
    told, budget, cost = (int(record[name]) for name in ("told", "budget", "counted"))
    return LEAST_USED * budget <= cost <= budget and cost == told


def budget_run(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One draw: what its network costs by two counts."""
    torch.set_num_threads(1)
    drawn = random.Random(job["draw"])
    budget, found, record = (searched if job["origin"] == "search" else hand_made)(drawn)
    return [job | record | {"budget": budget, "told": found.multiply_adds, "counted": counted(found)}]


def searched(drawn: random.Random) -> tuple[int, Architecture, dict[str, Any]]:
    """A budget, and what a short search on the digits finds for it."""
    stages = drawn.randint(2, 3)
    space = SearchSpace.preset(
        "digits",
        stem=drawn.choice(STEMS),
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
    return budget, found, record | {"operations": list(space.operations), "stem": list(space.stem)}


def hand_made(drawn: random.Random) -> tuple[int, Reference, dict[str, Any]]:
    """A budget, and the network of a family that is made as large; it looks at no image."""
    family, size = drawn.choice(list(FAMILIES)), drawn.choice(IMAGE_SIZES)
    space = SearchSpace.preset(
        "cifar10", image_size=size, channels_in=drawn.choice((1, 3)), classes=drawn.randint(2, 200)
    )
    variants = candidates(family, space)
    smallest = min(one.narrowest().multiply_adds for one in variants)
    largest = max(one.multiply_adds for one in variants)
    budget = round(smallest * math.exp(drawn.random() * math.log(largest / smallest)))
    found = fit_reference(family, space, budget, divisor=drawn.choice((1, 8)))
    return budget, found, {"variant": found.variant, "image_size": size, "widths": list(found.widths)}


def counted(genotype: Architecture | Reference) -> int:
    """Multiply-adds of one image's forward pass, by torch's counter."""
    with torch.device("meta"):
        network = build(genotype).eval()
        image = torch.zeros(1, *genotype.input_shape)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return int(counter.get_total_flops()) // 2


if __name__ == "__main__":
    raise SystemExit(main())
