"""What the benchmarks count of a step: the floor's work, and what is asked of torch."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.counting import Counting
from benchmarks.floor import BOTH, OF_SCALING, Work
from nas_core import SearchSpace


def multiply_adds(work: Work) -> int:
    products = sum(often * rows * inner * columns for (rows, inner, columns), often in work.products.items())
    each = ((often, kernel**2 * channels * size**2) for (kernel, channels, size), often in work.depthwise.items())
    return products + work.batch * sum(often * one for often, one in each)


@pytest.mark.parametrize("preset", ["digits", "cifar10", "imagenet"])
def test_the_floor_has_every_multiply_add_of_the_space_once_forward_and_twice_backward(preset: str) -> None:
    complete = SearchSpace.preset(preset).complete()
    whole, of_scaling = Work(2), Work(2)
    whole.add(complete.parts(), BOTH)
    of_scaling.add(complete.parts(), OF_SCALING)
    assert multiply_adds(whole) == 3 * 2 * complete.multiply_adds
    assert 2 * 2 * complete.multiply_adds < multiply_adds(of_scaling) < multiply_adds(whole)


@pytest.mark.parametrize("groups", [1, 8])
def test_operations_are_counted_with_their_multiply_adds_and_without_views(groups: int) -> None:
    x, weight = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(8, 8 // groups, 3, 3, requires_grad=True)
    with Counting() as counting:
        F.conv2d(x, weight, padding=1, groups=groups).permute(0, 2, 3, 1).sum().backward()
    found = {one.name: one for one in counting.asked}
    once = 2 * 36 * weight.numel()
    assert "permute" not in found and "empty" not in found
    assert found["convolution"].multiply_adds == once
    assert found["convolution"].bytes == 4 * (2 * x.numel() + weight.numel())
    assert found["convolution_backward"].multiply_adds == 2 * once
