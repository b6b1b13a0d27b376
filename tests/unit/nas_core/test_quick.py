"""Layers that are faster on a CPU, against those of torch that they stand for."""

import pytest
import torch
from torch import nn

from nas_core.supernet.quick import AveragePool, WideDepthwise, quicken


@pytest.mark.parametrize("kernel", [5, 7, 9])
def test_a_wide_depthwise_convolution_has_the_gradients_of_torchs(kernel: int) -> None:
    layer = nn.Sequential(nn.Conv2d(6, 6, kernel, 1, kernel // 2, groups=6, bias=False)).double()
    x, asked = (torch.randn(3, 6, 9, 11, dtype=torch.double) for _ in range(2))
    x.requires_grad_()
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad(layer(x), inputs, asked)
    quicken(layer)
    assert type(layer[0]) is WideDepthwise
    for found, wanted in zip(torch.autograd.grad(layer(x), inputs, asked), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_mean_of_pixels_is_torchs() -> None:
    layer = nn.Sequential(nn.AvgPool2d(3, 1, 1)).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.double, requires_grad=True)
    expected = layer(x)
    quicken(layer)
    assert type(layer[0]) is AveragePool
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.eval()(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, 1, 1, groups=6, bias=False),
        nn.Conv2d(6, 6, 5, 2, 2, groups=6, bias=False),
        nn.Conv2d(6, 6, 5, 1, 4, dilation=2, groups=6, bias=False),
        nn.Conv2d(6, 6, 5, 1, 2, groups=6),
        nn.Conv2d(6, 6, 5, 1, 2, bias=False),
        nn.AvgPool2d(5, 3),
    ],
)
def test_other_layers_stay_torchs_own(layer: nn.Module) -> None:
    kind = type(layer)
    quicken(layer)
    assert type(layer) is kind
