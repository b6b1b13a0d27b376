"""Sweep over budgets and seeds, look at the front, and use the best network; `yoso serve` must run (two minutes)."""

import runpy
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from sklearn.datasets import load_digits

from yoso import Client, answers

SEARCH = {  # small, so that it is quick; without these lines it takes longer and finds better networks
    "dataset": "digits",
    "space": {"channels": 8, "blocks": [1, 1], "levels": 2},
    "settings": {"pretrain_epochs": 4, "search_epochs": 12, "retrain_epochs": 20},
}


def main(folder: Path = Path("yoso-sweep")) -> None:
    """Queue, wait, look, and classify."""
    console = Console()
    with Client() as client:
        budgets = {"from": "30k", "to": "150k", "count": 3}
        sweep = client.submit_sweep(SEARCH, budgets, seeds=[0, 1], baselines=["resnet"], name="example")
        console.print(f"[bold]{client.url}/sweeps/{sweep['id']}[/] shows it, too", highlight=False)

        with Progress(console=console) as progress:
            bar = progress.add_task("sweeping", total=sweep["searches"] + sum(sweep["finals"].values()))

            def show(seen: answers.Sweep) -> None:
                searches = client.sweep_searches(seen["id"])["items"]
                progress.update(bar, completed=sum(search["progress"] for search in searches))

            ended = client.wait_sweep(sweep["id"], show)

        front = client.pareto(sweep["id"])
        if not front["points"]:
            raise SystemExit(f"nothing was found: {ended['counts']}")
        for point in front["points"]:
            mark = "●" if point["on_front"] else "·"
            told = f"{mark} {point['cost']:>9,.0f} multiply-adds  {point['accuracy']:.2%}  {point['origin']}"
            console.print(told, highlight=False)
        best = max(front["points"], key=lambda point: point["accuracy"])
        network_folder = Path(client.fetch(best["search"], folder, ["python", "weights"])[best["budget"]])
        (folder / "front.svg").write_bytes(client.download(f"/sweeps/{sweep['id']}/front.svg"))

    code = runpy.run_path(str(network_folder / "network.py"))  # needs torch alone
    network = code["load"](network_folder / "weights.safetensors")
    digits = load_digits()
    images = torch.from_numpy(digits.images[-20:] * (255 / 16)).round().to(torch.uint8)[:, None]  # (20, 1, 8, 8)
    seen = network(code["normalise"](images)).argmax(1).tolist()
    console.print("the last digits ", *digits.target[-20:], highlight=False)
    console.print("are seen as     ", *seen, highlight=False)
    console.print(f"{folder / 'front.svg'} is the front, {network_folder} the best network", highlight=False)


if __name__ == "__main__":
    main()
