"""The candidate operations, described once.

An operation is the list of layers that stand before its closing BN and ReLU. Both what it costs (`cost.py`, without
torch) and the module that computes it (`layers.py`) are derived from this list, so that the two cannot disagree.
Every operation keeps the resolution and, from its first layer to its last, the number of channels: its width.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from nas_core.errors import InvalidValue


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias, stride 1, same padding; `depthwise` has one filter a channel.

    `multiple` is the number of channels that leave it, in widths of the operation.
    """

    kernel: int
    depthwise: bool = False
    dilation: int = 1
    multiple: int = 1


@dataclass(frozen=True)
class Pool:
    """A 3×3 pool with stride 1 and padding 1; the average counts the padding, as the published code does."""

    kind: Literal["max", "average"]


@dataclass(frozen=True)
class Normalise:
    """BN and ReLU between two layers."""


@dataclass(frozen=True)
class SqueezeExcite:
    """Every channel times a gate that all channels' means decide on (Hu et al., arXiv 1709.01507, section 3).

    The means of the C channels that enter go through a 1×1 convolution to C / `reduction` channels, ReLU, a 1×1
    convolution back and a sigmoid. Both convolutions have a bias: no BN follows them.
    """

    reduction: int = 4

    def squeezed(self, channels: Any) -> Any:
        """The channels between the two convolutions, 1 at least; `channels` may be an array."""
        return channels // self.reduction + (channels < self.reduction)


Layer = Convolution | Pool | Normalise | SqueezeExcite

OPERATIONS: dict[str, tuple[Layer, ...]] = {}
"""The layers of every operation that a search space may name."""
OPERATION_SETS: dict[str, tuple[str, ...]] = {}
"""Operations that may be asked for by one name."""


def register(name: str, layers: tuple[Layer, ...]) -> None:
    """Make the operation of `layers` known as `name`.

    Search spaces and architectures name their operations only, so every process that reads one must have registered
    them. Raises `InvalidValue` for a name that is taken or has another form than `separable3`, and for layers that
    cannot be computed one after the other or do not end with as many channels as they begin with.
    """
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]{0,39}", name):
        raise InvalidValue(
            "operation.name", name, "not a usable name", "a letter, then up to 39 letters, digits and _, all lower-case"
        )
    if name in OPERATIONS or name in OPERATION_SETS:
        taken = ", ".join([*OPERATIONS, *OPERATION_SETS])
        raise InvalidValue("operation.name", name, "already taken", f"a name other than {taken}")
    if not isinstance(layers, tuple):
        raise InvalidValue("operation.layers", layers, "not a tuple", "a tuple of layers")
    multiple = 1
    for index, layer in enumerate(layers):
        if not _usable(layer, multiple):
            raise InvalidValue(
                f"operation.layers[{index}]",
                layer,
                f"not a layer that {multiple}× the width can enter",
                "a Convolution of odd kernel (a depthwise one of the multiple that enters it), Pool, Normalise or "
                "SqueezeExcite, with integers from 1 to 64",
            )
        multiple = _leaving(layer, multiple)
    if multiple != 1:
        raise InvalidValue("operation.layers", layers, f"{multiple}× the width leaves them", "a last multiple of 1")
    OPERATIONS[name] = layers


def in_full(names: Any) -> tuple[Any, ...]:
    """The operations that `names` stand for: one name or a sequence of them, and any may be that of a set."""
    given = [names] if isinstance(names, str) else names
    return tuple(one for name in given for one in (isinstance(name, str) and OPERATION_SETS.get(name)) or (name,))


def flow(name: str) -> list[tuple[Layer, int]]:
    """The layers of operation `name`, each with the number of channels that enter it, in widths of the operation."""
    flowing, multiple = [], 1
    for layer in OPERATIONS[name]:
        flowing.append((layer, multiple))
        multiple = _leaving(layer, multiple)
    return flowing


def _leaving(layer: Layer, entering: int) -> int:
    return layer.multiple if isinstance(layer, Convolution) else entering


def _usable(layer: Layer, entering: int) -> bool:
    match layer:
        case Convolution(kernel, depthwise, dilation, multiple):
            numbers = all(type(number) is int and 1 <= number <= 64 for number in (kernel, dilation, multiple))
            keeps = depthwise is False or (depthwise is True and multiple == entering)
            return numbers and kernel % 2 == 1 and keeps
        case Pool(kind):
            return kind in ("max", "average")
        case SqueezeExcite(reduction):
            return type(reduction) is int and 1 <= reduction <= 64
    return isinstance(layer, Normalise)


register("separable3", (Convolution(3, depthwise=True), Convolution(1)))
register("separable5", (Convolution(5, depthwise=True), Convolution(1)))
register("max_pool3", (Pool("max"),))
register("average_pool3", (Pool("average"),))

PAPER_OPERATIONS = tuple(OPERATIONS)
"""The paper's four operations (section 4.1), in the order of the published code."""

register("identity", ())
register("dilated3", (Convolution(3, depthwise=True, dilation=2), Convolution(1)))
register("dilated5", (Convolution(5, depthwise=True, dilation=2), Convolution(1)))
register("convolution3", (Convolution(3),))
# Without a 1×1 convolution: the block's output mixes the channels.
register("depthwise3", (Convolution(3, depthwise=True),))
register("separable3_se", (Convolution(3, depthwise=True), SqueezeExcite(), Convolution(1)))


def inverted_bottleneck(kernel: int, expansion: int, gated: bool = True) -> tuple[Layer, ...]:
    """MobileNetV3's block (arXiv 1905.02244, figure 4) without its shortcut, which is the edges' business here.

    Without gates it is MobileNetV2's (arXiv 1801.04381).
    """
    return (
        Convolution(1, multiple=expansion),
        Normalise(),
        Convolution(kernel, depthwise=True, multiple=expansion),
        Normalise(),
        *((SqueezeExcite(),) if gated else ()),
        Convolution(1),
    )


register("inverted_bottleneck3", inverted_bottleneck(3, 3))
register("inverted_bottleneck5", inverted_bottleneck(5, 3))
register("inverted_bottleneck3_e6", inverted_bottleneck(3, 6))
register("inverted_bottleneck3_plain", inverted_bottleneck(3, 3, gated=False))

OPERATION_SETS |= {
    "paper": PAPER_OPERATIONS,
    "mobile": ("convolution3", "depthwise3", "separable3_se", "inverted_bottleneck3"),
}
