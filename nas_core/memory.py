"""How much memory there is."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a driver asks for its host's memory, and loads no torch
    import torch


def of_host() -> tuple[int, int]:
    """The bytes of memory that are free for this process, and those that it may use: its node's or its container's."""
    with open("/proc/meminfo") as file:
        node = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in file)}
    free, total = node["MemAvailable"], node["MemTotal"]
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as current:
            allowed = int(limit.read())
            return min(free, allowed - int(current.read())), min(total, allowed)
    except (OSError, ValueError):  # no limit
        return free, total


def free_on(device: "torch.device") -> int:
    """The bytes of memory that are free on `device`."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else of_host()[0]
