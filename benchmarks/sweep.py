"""`make bench-sweep`: six budgets on the digits in one sweep, with the front as a picture, and what the sweep costs.

A service of its own runs the sweep by path, in which one search serves all budgets, and then the same budgets with a
search for each. The cost is the time for which their attempts held a CPU, from the claim until their jobs were gone.
"""

import argparse
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TaskID

from service import terminal
from service.answers import Sweep
from service.client import Client
from service.demo import fresh, with_service
from service.formats import exact

BUDGETS = {"from": "50k", "to": "300k", "count": 6}
SEARCH: dict[str, Any] = {
    "dataset": "digits",
    "space": {"channels": 8, "blocks": [1, 1]},
    "settings": {"pretrain_epochs": 8, "search_epochs": 20, "retrain_epochs": 30},
    "finals": {"baselines": []},
}


def main() -> int:
    """Run both sweeps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    return with_service(fresh(Path("yoso-sweep")), partial(compare, seeds=options.seeds))


def compare(console: Console, folder: Path, client: Client, seeds: int) -> int:
    """Both sweeps, one after the other; returns the exit code."""
    cost: dict[str, float] = {}
    accuracy: dict[int, dict[str, list[float]]] = {}
    for strategy in ("path", "independent"):
        made = client.submit_sweep(
            SEARCH, BUDGETS, seeds=list(range(seeds)), strategy=strategy, finals=False, name=f"six budgets, {strategy}"
        )
        console.print(f"Watch it at [bold]{client.url}/sweeps/{made['id']}[/]", highlight=False)
        with Progress(console=console) as bars:
            bar = bars.add_task(strategy, total=made["searches"])
            ended = client.wait_sweep(made["id"], partial(show, client, bars, bar))
        if ended["counts"] != {"succeeded": made["searches"]}:
            console.print(f"[red]not all searches have succeeded: {ended['counts']}[/]")
            return 1
        front = client.pareto(made["id"])
        console.print(terminal.front(front))
        (folder / f"{strategy}.svg").write_bytes(client.download(f"/sweeps/{made['id']}/front.svg"))
        cost[strategy] = sum(held(client, one["id"]) for one in client.sweep_searches(made["id"])["items"])
        for point in front["points"]:
            accuracy.setdefault(point["budget"], {}).setdefault(strategy, []).append(point["accuracy"])
    console.print("| budget | one search for all | a search for each |\n|---|---|---|")
    for budget, found in sorted(accuracy.items()):
        means = (f"{sum(some) / len(some):.2%}" for some in (found["path"], found["independent"]))
        console.print(f"| {exact(budget)} | {' | '.join(means)} |", highlight=False)
    console.print(
        f"CPU-seconds held: {cost['path']:.0f} and {cost['independent']:.0f}, "
        f"{cost['independent'] / cost['path']:.2f} times as many; the fronts are in {folder}",
        highlight=False,
    )
    return 0


def show(client: Client, bars: Progress, bar: TaskID, sweep: Sweep) -> None:
    """Tell how many searches are done, parts of them too."""
    bars.update(bar, completed=sum(one["progress"] for one in client.sweep_searches(sweep["id"])["items"]))


def held(client: Client, search_id: str) -> float:
    """For how many seconds the attempts of a search have held their CPUs, times these."""
    workers = client.get(search_id).workers
    times = [(one["started_at"], one["ended_at"] or one["started_at"]) for one in client.attempts(search_id)]
    return workers * sum((datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
                         for begin, end in times)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
