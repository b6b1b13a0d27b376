"""What is told of networks that competed: the same of a sweep's finals and of those that a search has of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from nas_core.deliver import card, comparison
from nas_core.files import FILES
from nas_core.finals import winners
from worker.run_folder import RunFolder

TRIAL = ("trial", "budget", "origin", "label", "seed", "source", "epochs", "validation_accuracy",
         "validation_balanced_accuracy", "outcome", "reason")  # fmt: skip
"""What a result tells of every network that began, those that were stopped or dropped too."""
OF_RUN = ("dataset", "engine")
"""What the results of networks hold and a run's result tells once."""


def competition(trials: Sequence[Mapping[str, Any]], choose_by: str) -> dict[str, Any]:
    """What `result.json` tells of `trials`: of those that were trained as `architectures`, and of all in short.

    The best of a budget on the validation part by `choose_by` is its `winner`, whatever its origin, and goes by the
    budget's name; each tells in a `comparison` how it did beside the best of the other side. Where trials are only
    there to be compared with, since none of their budget was searched for, there is no winner.
    """
    trained = [one for one in trials if one["outcome"] == "trained"]
    searched = {one["budget"] for one in trials if one["origin"] == "search"}
    best = winners([one for one in trained if one["budget"] in searched], choose_by)
    architectures = []
    for one in trained:
        winner = one["trial"] in best
        name = str(one["budget"]) if winner else f"{one['budget']}-{one['trial']}"
        own = {key: value for key, value in one.items() if key not in OF_RUN}
        told = {"name": name, "winner": winner, "comparison": comparison.beside(one, trained, choose_by)}
        architectures.append(own | told)
    return {
        "choose_by": choose_by,
        "architectures": sorted(architectures, key=lambda one: (one["budget"], not one["winner"], one["trial"])),
        "trials": [{key: one[key] for key in TRIAL if key in one} for one in trials],
    }


def compare_on_cards(folder: RunFolder, told: Mapping[str, Any]) -> None:
    """Tell on the cards of networks how they did beside others of their budgets; `told` is a `competition`."""
    for network in told["architectures"]:
        if "card" not in network["files"]:
            continue
        networks = [one for one in told["architectures"] if one["budget"] == network["budget"]]
        left_out = [one["reason"] for one in told["trials"] if one["budget"] == network["budget"] and one.get("reason")]
        if len(networks) > 1 or left_out:
            name = f"{network['path']}/{FILES['card']}"
            # Without what a driver before may have told.
            own = folder.read(name).decode().partition(f"\n{card.COMPARISON_HEADING}")[0]
            told_here = card.beside_others(network, networks, left_out, told["choose_by"])
            folder.write(name, (own + told_here).encode())
