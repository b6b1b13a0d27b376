"""A steady step asks nothing of the device: whoever reads a number waits for all that was asked before."""

import pytest
import torch

from benchmarks.counting import Counting
from nas_core import Search
from tests.unit.nas_core.networks import tiny_data, tiny_spec


@pytest.mark.parametrize("form", ["cut", "press", "paper"])
def test_a_steady_step_of_the_search_waits_for_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough that no budget is passed and no epoch ends meanwhile.
    settings = {"form": form, "pretrain_epochs": 0, "search_epochs": 200, "batch_size": 16}
    search = Search(tiny_spec(settings=settings), tiny_data(), "cpu")
    search.advance()  # what is asked of the data once
    read: list[str] = []
    for name in ("tolist", "numpy", "cpu", "item"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: read.append(name))
    with Counting() as counting:
        search._weight_step()
        search._scaling_step(1)
        search._press(0.01)
    monkeypatch.undo()
    assert counting.asked and counting.reads == {} and read == []
