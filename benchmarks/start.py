"""`make bench-start`: how long from an accepted request to the first training step, and what does not train after it?

The demonstration's search runs on a service of its own whose Ray is up, one time after the other. What is told comes
from what every run leaves: times of files, and the lines of its journal.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from service import proxies, terminal
from service.client import Client
from service.demo import BUDGETS, with_service
from service.domain.lifecycle import TERMINAL
from service.terminal import Console

FILE = Path("docs/benchmarks/start.json")
PHASES = {
    "claim": "the dispatcher claims it and writes what is asked for",
    "job": "Ray takes the job and starts its driver",
    "processes": "the driver connects, Ray Train's controller and the workers start and load torch",
    "data": "the workers load and check the data",
    "build": "they build the supernet and its optimisers",
    "step": "the first training step",
}


def main() -> int:
    """Run the searches and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=4, help="how many are run; of several the first is not counted")
    parser.add_argument("--short", action="store_true", help="searches of one epoch each, for the start alone")
    options = parser.parse_args()
    terminal.prepare()
    proxies.spare_loopback()
    runs: list[dict[str, float]] = []

    def use(console: Console, folder: Path, client: Client) -> int:
        time.sleep(3)  # Ray's own processes have started, but not all have come to rest
        for _ in track(range(options.searches), "searches"):
            runs.append(measure(client, folder / "storage", options.short))
        return 0

    with tempfile.TemporaryDirectory(prefix="yoso-start-") as folder:
        code = with_service(Path(folder), use)
    if code == 0:
        whole = (
            {} if options.short else {"whole": [{k: run[k] for k in ("wall", "started", "training")} for run in runs]}
        )
        starts = [{phase: run[phase] for phase in PHASES} for run in runs]
        record = {"cpus": os.cpu_count(), "processor": platform.processor(), "torch": torch.__version__}
        if not options.short:
            FILE.write_text(json.dumps(record | {"starts": starts} | whole, indent=1) + "\n")
        print(report(runs[1:] or runs, options.short))
    return code


def measure(client: Client, storage: Path, short: bool) -> dict[str, float]:
    """Run one search; the seconds of each of `PHASES`, of its `wall` time, of that until it had `started`, and of
    its `training`: steps, and the validation at the ends of epochs.
    """
    settings = {"pretrain_epochs": 1, "search_epochs": 1, "retrain_epochs": 1} if short else {}
    begin = time.time()
    search = client.submit("digits", BUDGETS, settings=settings)
    while client.get(search["id"])["status"] not in TERMINAL:
        time.sleep(0.1)
    wall = time.time() - begin
    if client.get(search["id"])["status"] != "succeeded":
        raise RuntimeError(f"the search did not succeed: {client.get(search['id'])['error']}")
    [folder] = storage.glob(f"**/{search['id']}")
    lines = [json.loads(text) for name in sorted((folder / "journal").iterdir()) for text in name.open()]
    started, first = (next(line for line in lines if line["kind"] == kind) for kind in ("started", "phase"))
    own = folder / "attempts" / "0001"
    asked, claimed = ((own / name).stat().st_mtime for name in ("spec.json", "claimed"))
    data, build = started["data_seconds"], started["build_seconds"]
    result = json.loads((own / "result.json").read_text())
    return {
        "claim": asked - begin,
        "job": claimed - asked,
        "processes": started["time"] - data - build - claimed,
        "data": data,
        "build": build,
        "step": first["time"] - started["time"],
        "wall": wall,
        "started": started["time"] - begin,
        "training": result["training_seconds"],
    }


def report(runs: list[dict[str, Any]], short: bool) -> str:
    """The table of the document: medians of the runs."""
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    rows = ["| From the request to the first step | seconds |", "|---|---|"]
    rows += [f"| {told} | {middle[phase]:.2f} |" for phase, told in PHASES.items()]
    total = statistics.median(sum(run[phase] for phase in PHASES) for run in runs)
    rows.append(f"| **in all** | **{total:.1f}** |")
    if not short:
        outside = statistics.median(1 - run["training"] / run["wall"] for run in runs)
        after = statistics.median(1 - run["training"] / (run["wall"] - run["started"]) for run in runs)
        rows += ["", f"Of {middle['wall']:.0f} s from the request to success, {outside:.1%} were no training;"]
        rows += [f"of those since the workers had started, {after:.1%}."]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
