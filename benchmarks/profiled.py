"""What the time of a step goes into, by kind of operation, as torch's profiler sees it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch.profiler import ProfilerActivity, profile

KINDS = ("products", "depthwise, pools", "BN", "elementwise", "copies", "optimiser", "between operations")
"""Products are matrix products and full convolutions; between operations are Python, autograd and what allocates."""

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "linear", "matmul")
COPIES = ("copy_", "clone", "cat", "stack", "fill_", "zero_", "constant_pad_nd", "contiguous", "_to_copy", "index")


def shares(work: Callable[[], object]) -> dict[str, float]:
    """The share of every kind in the time of `work`."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        work()
    found: Counter[str] = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        found[kind(event.key, event.input_shapes)] += event.self_cpu_time_total
    whole = sum(found.values())
    return {name: found[name] / whole for name in KINDS}


def kind(name: str, shapes: Sequence[Any]) -> str:
    """The kind of an operation of this name on tensors of such shapes."""
    if not name.startswith("aten::"):
        return "optimiser" if name.startswith("Optimizer") else "between operations"
    name = name.removeprefix("aten::")
    if "convolution" in name:
        # (gradient,) input, weight, …; a depthwise weight is (C, 1, k, k).
        weight = shapes[2] if "backward" in name else shapes[1]
        return "depthwise, pools" if weight[1] == 1 else "products"
    if "pool" in name:
        return "depthwise, pools"
    if "batch_norm" in name:
        return "BN"
    if name in PRODUCTS:
        return "products"
    if name in COPIES:
        return "copies"
    if name.startswith(("_foreach", "_fused")):
        return "optimiser"
    return "elementwise"
