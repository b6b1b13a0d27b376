"""The candidate operations, described once.

An operation is the list of layers that stand before its closing BN and ReLU. Both what it costs (here and in
`cost.py`, without torch) and the module that computes it (`layers.py`) are derived from this list, so that the two
cannot disagree. Every operation keeps the resolution and the number of channels.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias, stride 1, same padding; `depthwise` has one filter a channel."""

    kernel: int
    depthwise: bool = False
    dilation: int = 1


@dataclass(frozen=True)
class Pool:
    """A 3×3 pool with stride 1 and padding 1; the average counts the padding, as the published code does."""

    kind: Literal["max", "average"]


Layer = Convolution | Pool

OPERATIONS: dict[str, tuple[Layer, ...]] = {
    "separable3": (Convolution(3, depthwise=True), Convolution(1)),
    "separable5": (Convolution(5, depthwise=True), Convolution(1)),
    "max_pool3": (Pool("max"),),
    "average_pool3": (Pool("average"),),
}
"""The paper's four operations (section 4.1), in the order of the published code."""
