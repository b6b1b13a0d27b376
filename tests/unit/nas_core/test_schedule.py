"""The cost follows the schedule, whatever the preset, the dataset's size, the rates and the gradients."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_core import SearchSpace
from nas_core.data.images import TensorImages
from nas_core.data.loading import Data
from nas_core.search.schedule import DESCENT
from nas_core.search.search import Search
from nas_core.space.operations import OPERATION_SETS
from nas_core.spec import SearchSpec, Settings
from nas_core.spec.settings import SETTINGS
from tests.thoroughness import some

STAGES = {"digits": (1, 1), "cifar10": (1, 1, 1), "imagenet": (1, 1, 1, 1)}


class Unlearned(Search):
    """A search that computes no network: its λ get gradients that are drawn, `drift` for all and noise for each."""

    drift = noise = 0.0

    def _weight_step(self) -> None:
        pass

    def _scaling_step(self, number: int) -> None:
        for factor in self.supernet.scaling_factors():
            factor.grad = self.drift + self.noise * torch.randn_like(factor)
        self._move_scaling_factors()

    def _epoch_line(self, phase: str, epoch: int, epochs: int) -> dict[str, Any]:
        return {"kind": "epoch"}

    @torch.no_grad()
    def cost(self) -> int:
        """Multiply-adds of what lives."""
        blocks, reductions = self.supernet.scaling_factors()
        return int(self.liveness.cost(blocks > 0, reductions, torch.zeros(())))


def unlearned(spec: SearchSpec, images: int, drift: float = 0.0, noise: float = 0.0) -> Unlearned:
    """Such a search on so many training images, half of them for W where λ take a step for each of W's."""
    ratio = spec.settings.ratio
    weights, scaling = torch.arange(images).tensor_split([images * ratio // (ratio + 1)])
    parts = {"weights": weights, "scaling": scaling, "validation": scaling, "test": scaling}
    pixels = torch.zeros(1, spec.space.channels_in, 1, 1, dtype=torch.uint8)
    labels = torch.zeros(images, dtype=torch.long)
    data = Data("none", spec.space.classes, TensorImages(pixels), labels, parts, "none", torch.device("cpu"))
    search = Unlearned(spec, data, "cpu")
    search.drift, search.noise = drift, noise
    return search


@st.composite
def searches(draw: st.DrawFn) -> Unlearned:
    """A search as a preset ships it or with another γ or form, for some budgets, of up to some 200 steps of λ."""
    preset = draw(st.sampled_from(list(SETTINGS)))
    operations = draw(st.sampled_from(list(OPERATION_SETS)))
    shape: dict[str, Any] = {"channels": 4, "blocks": STAGES[preset], "levels": 2, "share": draw(st.booleans())}
    space = SearchSpace.preset(preset, operations=operations, **shape)
    smallest, largest = space.feasible_budgets()
    shares = draw(st.lists(st.floats(0, 0.95), min_size=1, max_size=3))
    budgets = sorted({round(smallest + share * (largest - smallest)) for share in shares})
    epochs, batch_size = draw(st.integers(1, 200)), draw(st.sampled_from([2, 32, 128, 1024]))
    given: dict[str, Any] = draw(st.sampled_from([{}, {"gamma": 0.01}, {"gamma": 0.1}, {"form": "press"}]))
    chosen = Settings.preset(preset, pretrain_epochs=0, search_epochs=epochs, batch_size=batch_size, **given)
    images = max(1, draw(st.integers(1, 200)) // epochs) * batch_size * (chosen.ratio + 1)
    # No gradient is clipped: those that are clipped alike move their λ alike, and of equal λ all go together.
    drift, noise = draw(st.sampled_from([0.0, 0.003, -0.003, 0.5])), draw(st.sampled_from([0.001, 0.03, 0.2]))
    return unlearned(SearchSpec("none", tuple(budgets), space, chosen), images, drift, noise)


@settings(max_examples=some(15))
@given(searches())
def test_the_cost_follows_the_schedule_and_every_budget_is_crossed_where_it_says(search: Unlearned) -> None:
    torch.manual_seed(0)
    complete, budgets = search.spec.space.complete().multiply_adds, search.spec.budgets
    block = int(search.liveness.complete.max())
    crossed: set[int] = set()
    now = complete
    while not search.done:
        search.advance()
        if search.step % search.settings.ratio and not search.done:
            continue
        before, now = now, search.cost()
        target = complete + (budgets[0] - complete) * min(search.step / search.steps / DESCENT, 1.0)
        assert now <= target, "the cost is never above the schedule,"
        assert now == before or before > target, "never falls before the schedule asks for it,"
        assert target - now <= block, "and then by no more than a block."
        passed = {budget for budget in budgets if now <= budget} - crossed
        assert all(budget - block <= target <= budget + block for budget in passed)
        crossed |= passed
    assert set(search.architectures) == crossed == set(budgets)
    assert all(architecture.multiply_adds <= budget for budget, architecture in search.architectures.items())
