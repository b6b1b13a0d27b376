"""The modules that the supernet and the derived network share.

Shapes: B images a batch, C channels, H×W pixels; activations are (B, C, H, W).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.operations import OPERATIONS, Convolution, Layer

BN_EPS = 2e-5
"""As in the published code."""
BN_MOMENTUM = 0.1
"""The share of the newest batch in the running statistics (0.9 in the published code's convention)."""


class BatchNorm(nn.Module):
    """Batch normalisation over all but the channel axis; without `scale` its scale stays 1.

    While λ is learned the scales inside operations stay at 1, so that λ alone carries an edge's strength
    (paper, section 4.1).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, scale: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.momentum = BN_MOMENTUM

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, by the batch's statistics in training and by the running ones otherwise."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, BN_EPS
        )


def he_normal_(weight: Tensor) -> Tensor:
    """Fill a convolution's weight as the published code does: normal, variance 2 / (outputs × kernel area)."""
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def convolution(kernel: int, channels_in: int, channels_out: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the resolution."""
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    he_normal_(layer.weight.data)
    return layer


def conv_bn_relu(
    kernel: int, channels_in: int, channels_out: int, stride: int = 1, scale: bool = True
) -> nn.Sequential:
    """Convolution, BN, ReLU."""
    return nn.Sequential(
        convolution(kernel, channels_in, channels_out, stride), BatchNorm(channels_out, scale), nn.ReLU()
    )


def _module(layer: Layer, width: int) -> nn.Module:
    if isinstance(layer, Convolution):
        reach = layer.dilation * (layer.kernel - 1) // 2
        groups = width if layer.depthwise else 1
        module = nn.Conv2d(
            width, width, layer.kernel, padding=reach, dilation=layer.dilation, groups=groups, bias=False
        )
        he_normal_(module.weight.data)
        return module
    return nn.MaxPool2d(3, 1, 1) if layer.kind == "max" else nn.AvgPool2d(3, 1, 1)


def operation(name: str, width: int, closing_pointwise: bool = True) -> nn.Sequential:
    """The layers of operation `name`, without its closing BN and ReLU.

    Without `closing_pointwise` a last 1×1 convolution is left out, for a caller that joins several of them in one.
    """
    layers = OPERATIONS[name]
    if not closing_pointwise and closes_pointwise(name):
        layers = layers[:-1]
    return nn.Sequential(*(_module(layer, width) for layer in layers))


def closes_pointwise(name: str) -> bool:
    """Whether the last layer of operation `name` is a full 1×1 convolution."""
    layers = OPERATIONS[name]
    return bool(layers) and layers[-1] == Convolution(1)


class Head(nn.Module):
    """BN, ReLU, global average pool, classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.bn = BatchNorm(channels)
        self.classifier = nn.Linear(channels, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits (B, classes) of activations (B, C, H, W)."""
        return self.classifier(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads (B, C) of activations (B, C, H, W)."""
        return F.relu(self.bn(x)).mean((2, 3))


def auxiliary_head(channels: int, size: int, classes: int) -> nn.Sequential:
    """A second classifier for activations (B, channels, size, size) in mid-network, as in the published code.

    BN, ReLU, 5×5 average pool with stride 3, Conv-BN-ReLU 1×1 to 128 and 2×2 to 768 channels, global average pool,
    classifier. The pool rounds its size up, so that the 7×7 pixels of ImageNet leave the 2×2 that are needed; what
    is below 6×6 is pooled to just these.
    """
    pool = nn.AvgPool2d(5, 3, ceil_mode=True) if size >= 6 else nn.AdaptiveAvgPool2d(2)
    reduce = nn.Conv2d(128, 768, 2, bias=False)
    he_normal_(reduce.weight.data)
    return nn.Sequential(
        BatchNorm(channels), nn.ReLU(), pool, conv_bn_relu(1, channels, 128), reduce, Head(768, classes)
    )


def stem(channels_in: int, width: int, strides: tuple[int, ...]) -> nn.Sequential:
    """3×3 Conv-BN-ReLU, one for each stride, of which all but the last have half of `width`."""
    layers, channels = [], channels_in
    for index, stride in enumerate(strides):
        out = width if index == len(strides) - 1 else width // 2
        layers.append(conv_bn_relu(3, channels, out, stride))
        channels = out
    return nn.Sequential(*layers)
