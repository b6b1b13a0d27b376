"""How much memory there is, and whether it was too little."""

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


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that there was not enough memory."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    told = str(error).lower()  # torch's allocator, the C library, C++
    return any(words in told for words in ("can't allocate memory", "cannot allocate memory", "bad_alloc"))
