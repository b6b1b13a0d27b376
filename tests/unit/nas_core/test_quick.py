"""Layers in the forms that a CPU trains, against those of torch that they stand for."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nas_core.supernet.quick import AveragePool, StridedPointwise, WideDepthwise, quicken


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


@pytest.mark.parametrize("stride", [2, 3])
def test_a_strided_pointwise_convolution_has_the_gradients_of_torchs(stride: int) -> None:
    layer = nn.Sequential(nn.Conv2d(4, 8, 1, stride, bias=False)).double()
    x = torch.randn(3, 4, 8, 9, dtype=torch.double, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = layer(x)
    asked = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, asked)
    quicken(layer)
    assert type(layer[0]) is StridedPointwise
    torch.testing.assert_close(layer(x), expected)
    for found, one in zip(torch.autograd.grad(layer(x), inputs, asked), wanted, strict=True):
        torch.testing.assert_close(found, one)


def test_a_narrow_strided_pointwise_convolution_writes_into_its_own_memory_alone() -> None:
    """torch's own ends this process on a processor with AVX2 and without AVX-512."""
    code = """
import torch
from nas_core.supernet.quick import quicken
for channels in (1, 4, 5, 12):
    layer = torch.nn.Sequential(torch.nn.Conv2d(channels, 8, 1, 2, bias=False)).to(memory_format=torch.channels_last)
    quicken(layer)
    for _ in range(100):
        layer(torch.randn(16, channels, 8, 8).to(memory_format=torch.channels_last)).sum().backward()
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


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
        nn.Conv2d(6, 6, 1, bias=False),
        nn.Conv2d(6, 6, 1, 2),
        nn.Conv2d(6, 6, 5, 1, 2, bias=False),
        nn.AvgPool2d(5, 3),
    ],
)
def test_other_layers_stay_torchs_own(layer: nn.Module) -> None:
    kind = type(layer)
    quicken(layer)
    assert type(layer) is kind
