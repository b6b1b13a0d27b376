"""What a search will compute, told from its specification alone. No torch.

Multiply-adds of forward passes, as results count them in `compute`; a backward pass costs about twice as much again.
"""

from dataclasses import dataclass

from nas_core.data.datasets import TEST_SHARE, VALIDATION_SHARE
from nas_core.search.schedule import DESCENT
from nas_core.spec import SearchSpec
from nas_core.spec.finals import planned_epochs


@dataclass(frozen=True)
class Forecast:
    """The multiply-adds of all forward passes of a search: of its supernet, and of all networks that it trains."""

    search: int
    training: int

    @property
    def multiply_adds(self) -> int:
        """Of both phases."""
        return self.search + self.training


def training_images(spec: SearchSpec) -> int:
    """About how many images networks are trained on, by what was found of the dataset when the search was submitted.

    Raises `ValueError` where the specification does not say how many images there are.
    """
    found = spec.inspection or {}
    parts = found.get("parts") or {"train": found.get("images") or 0}
    images = float(parts.get("train", 0))
    if images <= 0:
        raise ValueError("the specification does not say how many images its dataset has")
    if not parts.get("test"):
        images *= 1 - TEST_SHARE
    if not parts.get("validation"):
        images *= 1 - VALIDATION_SHARE
    return max(1, round(images))


def forecast(spec: SearchSpec) -> Forecast:
    """What the search of `spec` will compute if its cost falls as scheduled, and no network's training ends early.

    Raises `ValueError` where the specification does not say how many images there are.
    """
    settings, images = spec.settings, training_images(spec)
    own = images * settings.ratio / (settings.ratio + 1) if settings.split else images
    complete, smallest = spec.space.complete().multiply_adds, min(spec.budgets)
    # From the complete cost down to the smallest budget on a line, and that from there on; the paper's form only cuts
    # at its end.
    mean = complete if settings.form == "paper" else smallest + (complete - smallest) * DESCENT / 2
    pretraining = own * settings.pretrain_epochs * complete
    searching = own * settings.search_epochs * mean * (1 + 1 / settings.ratio)
    training = 0
    if spec.retrain:
        training = images * sum(spec.budgets) * planned_epochs(spec.finals, settings.retrain_epochs)
    return Forecast(round(pretraining + searching), training)
