"""`make bench-recipes`: what does each part of a recipe for retraining gain at this length of training?

Networks that nobody searched for are trained on photographs in ways that differ by one thing each, and in the named
recipes, all from the same seeds. Averages of the weights over several lengths are taken beside each training, which
they do not change. What was measured so far is kept in a file, so that a run which is cut goes on.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import ttest_rel

from benchmarks.common import SCRATCH, by_hand, data_of, run_all
from nas_core.search.references import candidates
from nas_core.search.spending import fit_widths
from nas_core.space import Architecture, Reference, SearchSpace
from nas_core.spec import SearchSpec, Settings
from nas_core.train.retrain import Retraining, moving_average
from nas_core.train.steps import evaluate

BUDGET = 1_500_000
PHOTOGRAPHS = SCRATCH / "photographs"


def space_of(channels: int) -> SearchSpace:
    """A space of three stages of one block, small enough for many runs on a CPU."""
    return SearchSpace.preset("cifar10", channels=channels, blocks=(1, 1, 1), levels=3, stem=(2,))


SPACE = space_of(16)
TRAINING, TEST = 1000, 300
"""Images of each class: the first of CIFAR-10's."""
AVERAGED = (0.0, 0.05, 0.1, 0.2)
"""The shares of the training over which weights are averaged; 0 are the weights themselves."""
STANDARD: dict[str, Any] = {"recipe": "standard"}
ARMS: dict[str, dict[str, Any]] = {
    "paper": {"recipe": "paper"},
    "standard": STANDARD,
    "smoothing": STANDARD | {"label_smoothing": 0.1},
    "TrivialAugment": STANDARD | {"policy": "trivial_augment"},
    "mixup and cutmix": STANDARD | {"mixup": 0.2, "cutmix": 1.0},
    "biases decay": STANDARD | {"decay_biases": True},
}
"""The named recipes, and what differs from the standard one by one thing."""


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    first_of(options.data, parser)
    jobs = [
        {"network": network, "arm": arm, "seed": seed, "epochs": options.epochs}
        for seed in options.seeds
        for network in options.networks
        for arm in options.arms
    ]
    records = run_all(trained, jobs, options.results / "recipes.jsonl")
    for network in options.networks:
        own = [r for r in records if r["network"] == network and r["seed"] in options.seeds]
        print(report(network, [r for r in own if r["epochs"] == options.epochs]))


def add_data(parser: argparse.ArgumentParser) -> None:
    """Let the command line say where CIFAR-10 is."""
    parser.add_argument("--data", type=Path, default=Path("build/cifar10"), help="CIFAR-10 as folders of images")


def first_of(whole: Path, parser: argparse.ArgumentParser, into: Path = PHOTOGRAPHS, test: int = TEST) -> None:
    """Copy the first images of each class of `whole`, of which `test` are tested, unless they are there; without any,
    say so.
    """
    if not (whole / "train").is_dir() or not (whole / "test").is_dir():
        parser.error(f"--data {whole}: there is no CIFAR-10 as train/<class>/*.jpg and test/<class>/*.jpg")
    for folder, count in (("train", TRAINING), ("test", test)):
        for own in sorted((whole / folder).iterdir()):
            (into / folder / own.name).mkdir(parents=True, exist_ok=True)
            for image in sorted(own.iterdir())[:count]:
                copy = into / folder / own.name / image.name
                if not copy.exists():
                    shutil.copyfile(image, copy)


def resnet8() -> Reference:
    """ResNet-8 (He et al., arXiv 1512.03385, section 4.2), as wide as the budget allows; its stem halves images too."""
    drawn = candidates("resnet", SPACE)
    return fit_widths(next(one for one in drawn if (one.variant, one.halvings) == ("resnet8", 3)), BUDGET)


NETWORKS: dict[str, Callable[[], Architecture | Reference]] = {
    "by hand": cache(lambda: by_hand(SPACE, BUDGET)),
    "ResNet-8": cache(resnet8),
}


def trained(job: dict[str, Any]) -> list[dict[str, Any]]:
    """One training, and the accuracy of its weights and of each average, by the share of the training it is over."""
    torch.set_num_threads(1)
    settings = Settings.preset("cifar10", retrain_epochs=job["epochs"], **ARMS[job["arm"]])
    spec = SearchSpec(str(PHOTOGRAPHS), (BUDGET,), SPACE, settings, seed=job["seed"])
    architecture, start = NETWORKS[job["network"]](), time.monotonic()
    training = Retraining(spec, architecture, data_of(spec), "cpu")
    averages = {share: moving_average(training.network, share * training.steps) for share in AVERAGED if share}
    while not training.done:
        training.advance()
        for average in averages.values():
            average.update_parameters(training.network)
    judged = {0.0: training.network} | {share: average.module for share, average in averages.items()}
    parts, accuracy = training.data.parts, dict[str, dict[str, float]]()
    for part in ("validation", "test"):
        accuracy[part] = {
            f"{share:g}": evaluate(network, training.data, parts[part]).accuracy for share, network in judged.items()
        }
    told = {"multiply_adds": architecture.multiply_adds, "seconds": round(time.monotonic() - start)}
    return [job | told | accuracy]


def report(network: str, records: list[dict[str, Any]]) -> str:
    """A table of the arms in Markdown: what their weights reach, compared with the standard recipe seed by seed, and by
    how much their averages are above these weights.
    """
    shares = [f"{share:g}" for share in AVERAGED if share]
    lines = [
        f"\n### {network}\n",
        "| arm | n | test accuracy | from – to | above standard | p (paired) | "
        + " | ".join(f"averaged over {share}" for share in shares)
        + " |",
        "|---" * (6 + len(shares)) + "|",
    ]
    standard = {record["seed"]: record["test"]["0"] for record in records if record["arm"] == "standard"}
    for arm in ARMS:
        own = {record["seed"]: record["test"] for record in records if record["arm"] == arm}
        if not own:
            continue
        reached = [one["0"] for one in own.values()]
        cells = [arm, str(len(own)), f"{mean(reached):.4f}", f"{min(reached):.4f} – {max(reached):.4f}"]
        pairs = [(own[seed]["0"], standard[seed]) for seed in own if seed in standard and arm != "standard"]
        cells.append(f"{mean([one - other for one, other in pairs]):+.4f}" if pairs else "")
        cells.append(f"{ttest_rel(*zip(*pairs, strict=True)).pvalue:.2g}" if len(pairs) > 1 else "")
        cells += [f"{mean([one[share] - one['0'] for one in own.values()]):+.4f}" for share in shares]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
