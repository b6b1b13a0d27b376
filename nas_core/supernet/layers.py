"""The modules that the supernet and the derived network share.

Shapes: B images a batch, C channels, H×W pixels; activations are (B, C, H, W).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from nas_core.space import topology
from nas_core.space.operations import Convolution, Layer, Normalise, Pool, SqueezeExcite, flow
from nas_core.space.skeleton import Skeleton
from nas_core.space.topology import Activate, Classify, ConvBnAct, Dense, Gate, MaxPool, Mean, Operate, Step

BN_EPS = 2e-5
"""As in the published code."""
BN_MOMENTUM = 0.1
"""The share of the newest batch in the running statistics (0.9 in the published code's convention)."""


def batch_norm(channels: int, scale: bool = True) -> nn.BatchNorm2d:
    """torch's batch normalisation of (B, C, H, W); without `scale` its scale stays 1.

    While λ is learned the scales inside operations stay at 1, so that λ alone carries an edge's strength
    (paper, section 4.1).
    """
    norm = nn.BatchNorm2d(channels, BN_EPS, BN_MOMENTUM)
    norm.weight.requires_grad_(scale)
    return norm


def he_normal_(weight: Tensor) -> Tensor:
    """Fill a convolution's weight as the published code does: normal, variance 2 / (outputs × kernel area)."""
    return nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def convolution(
    kernel: int, channels_in: int, channels_out: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """A convolution without bias, padded so that stride 1 keeps the resolution; `kernel` is odd."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, groups, bias=False)
    he_normal_(layer.weight.data)
    return layer


def conv_bn_relu(
    kernel: int, channels_in: int, channels_out: int, stride: int = 1, scale: bool = True
) -> nn.Sequential:
    """Convolution, BN, ReLU."""
    return nn.Sequential(
        convolution(kernel, channels_in, channels_out, stride), batch_norm(channels_out, scale), nn.ReLU()
    )


class SqueezeExcitation(nn.Module):
    """Every channel times its gate, which depends on the means of all; see `operations.SqueezeExcite`.

    `hard` gates are MobileNetV3's (`topology.Gate`).
    """

    def __init__(self, channels: int, squeezed: int, hard: bool = False) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid() if hard else nn.Sigmoid()
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                he_normal_(parameter.data)
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return x * self.gate(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


def _module(layer: Layer, multiple: int, width: int, scale: bool) -> nn.Module:
    channels = multiple * width
    match layer:
        case Convolution(kernel, depthwise, dilation):
            groups = channels if depthwise else 1
            return convolution(kernel, channels, layer.multiple * width, groups=groups, dilation=dilation)
        case Pool(kind):
            return nn.MaxPool2d(3, 1, 1) if kind == "max" else nn.AvgPool2d(3, 1, 1)
        case Normalise():
            return nn.Sequential(batch_norm(channels, scale), nn.ReLU())
        case SqueezeExcite():
            return SqueezeExcitation(channels, layer.squeezed(channels))


def operation(name: str, width: int, scale: bool = True, closing_pointwise: bool = True) -> nn.Sequential:
    """The layers of operation `name`, without its closing BN and ReLU; BN within it have a `scale` or not.

    Without `closing_pointwise` a last 1×1 convolution is left out, for a caller that joins several of them in one.
    """
    layers = flow(name)
    if not closing_pointwise and closes_pointwise(name):
        layers = layers[:-1]
    return nn.Sequential(*(_module(layer, multiple, width, scale) for layer, multiple in layers))


def closes_pointwise(name: str) -> bool:
    """Whether the last layer of operation `name` is a full 1×1 convolution between as many channels as its width."""
    return flow(name)[-1:] == [(Convolution(1), 1)]


class Head(nn.Module):
    """BN, ReLU, global average pool, classifier."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.bn = batch_norm(channels)
        self.classifier = linear(channels, classes)

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
        batch_norm(channels), nn.ReLU(), pool, conv_bn_relu(1, channels, 128), reduce, Head(768, classes)
    )


_ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6, "hard_swish": nn.Hardswish}


def linear(channels: int, outputs: int) -> nn.Linear:
    """A matrix with a bias, as classifiers begin: small weights and a bias of zeros."""
    layer = nn.Linear(channels, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


def module_of(step: Step) -> nn.Module:
    """What computes a step from the sum of what it reads, freshly initialised.

    Raises `TypeError` for a step of another kind.
    """
    match step:
        case ConvBnAct(activation=activation, channels=channels):
            convolved = convolution(step.kernel, step.channels_in, channels, step.stride, step.groups)
            closing = [] if activation == "none" else [_ACTIVATIONS[activation]()]
            return nn.Sequential(convolved, batch_norm(channels), *closing)
        case Operate(operation=name, channels=width):
            return nn.Sequential(operation(name, width), batch_norm(width), nn.ReLU())
        case Gate():
            return SqueezeExcitation(step.channels, step.squeezed, hard=True)
        case Activate():
            return nn.ReLU()
        case MaxPool():
            return nn.MaxPool2d(3, 2, 1)
        case Mean():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case Dense():
            layer = nn.Linear(step.channels_in, step.channels)
            he_normal_(layer.weight.data)
            nn.init.zeros_(layer.bias)
            return nn.Sequential(layer, nn.Hardswish())
        case Classify():
            return linear(step.channels, step.classes)
    raise TypeError(f"no module of its own computes a {type(step).__name__}")


def stem(space: Skeleton, width: int) -> nn.Sequential:
    """The 3×3 Conv-BN-ReLU that a network of `space` begins with, whose first stage is to have `width` channels."""
    return nn.Sequential(*map(module_of, topology.stem(space, width).steps))
