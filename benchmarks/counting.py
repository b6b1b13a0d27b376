"""What a step asks of torch, operation by operation."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

READS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
"""What has to know a value on the host, or a size that depends on one, and so waits for the device."""

NO_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
"""What launches nothing, besides views."""


class Asked(NamedTuple):
    """An operation that a device computes: its multiply-adds, and the bytes that it reads and writes."""

    name: str
    multiply_adds: float
    bytes: int


class Counting(TorchDispatchMode):
    """Keeps what is asked of a device: each operation but views and memory that is only set aside.

    An operation is at least one kernel; a few, such as BN's backward pass, are two or three.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked: list[Asked] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        packet = function.overloadpacket
        name = packet.__name__
        if not function.is_view and name not in NO_KERNEL:
            moved = sum(min(t.numel() * t.itemsize, t.untyped_storage().nbytes()) for t in _tensors(args, kwargs, out))
            self.asked.append(Asked(name, _multiply_adds(function, args, kwargs, out), moved))
        return out

    @property
    def reads(self) -> Counter[str]:
        """How often the host waited to read something, by the operation that made it."""
        return Counter(one.name for one in self.asked if one.name in READS)


def _multiply_adds(function: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> float:
    packet = function.overloadpacket
    if packet.__name__ == "convolution_backward":
        # torch's own count takes a depthwise convolution's for a full one's.
        gradient, _, weight, *_, wanted = args
        return float(gradient.numel() * weight[0].numel() * sum(wanted[:2]))
    return flop_registry[packet](*args, **kwargs, out_val=out) / 2 if packet in flop_registry else 0.0


def _tensors(*values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
