"""A steady step asks nothing of the device: whoever reads a number waits for all that was asked before."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas_core import Search
from tests.unit.nas_core.networks import tiny_data, tiny_spec

READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
"""What has to know a value on the host, or a size that depends on one."""


class Counting(TorchDispatchMode):
    """Counts the operations that wait for a device; there need be none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name in READS:
            self.reads[name] += 1
        return function(*args, **kwargs or {})


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
    assert counting.reads == {} and read == []
