"""Two data-parallel workers find what one finds with the same batch: real processes, joined by gloo."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from nas_core import Search
from nas_core.data import Data
from tests.unit.nas_core.networks import tiny_data, tiny_spec


class Precise(Data):
    """Images in double precision."""

    def load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = super().load(indices)
        return images.double(), labels


def found(steps: int | None, precise: bool) -> dict[str, Any]:
    """What a search holds after some steps, or at its end."""
    data = tiny_data()
    search = Search(tiny_spec(), Precise(**vars(data)) if precise else data, "cpu")
    if precise:
        search.supernet.double()
        search._optimizers()
    while not search.done and (steps is None or search.step < steps):
        search.advance()
    return {
        "λ": torch.cat([parameter.detach() for parameter in search.supernet.scaling_factors()]),
        "W": torch.cat([parameter.detach().flatten() for parameter in search.supernet.weights()]),
        "statistics": torch.cat([buffer.flatten() for buffer in search.supernet.buffers()]),
        "networks": [
            (a.widths, [[edge[:2] for edge in block.edges] for block in a.blocks])
            for a in search.architectures.values()
        ],
    }


def worker(rank: int, folder: Path, steps: int | None, precise: bool) -> None:
    """One of two workers; the first leaves what it found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    result = found(steps, precise)
    if rank == 0:
        torch.save(result, folder / "found")
    # Neither leaves while the other still listens to it.
    dist.barrier()
    dist.destroy_process_group()


def by_two(folder: Path, steps: int | None, precise: bool) -> Any:
    """What two workers hold."""
    spawn(worker, (folder, steps, precise), nprocs=2)
    return torch.load(folder / "found", weights_only=False)


def test_two_workers_take_the_steps_of_one(tmp_path: Path) -> None:
    """Single precision: the first steps agree to rounding, BN's statistics too. Later rounding grows, as it must."""
    alone, together = found(2, False), by_two(tmp_path, 2, False)
    for name in ("λ", "W", "statistics"):
        torch.testing.assert_close(together[name], alone[name], atol=1e-4, rtol=1e-4)


def test_two_workers_find_the_architectures_of_one(tmp_path: Path) -> None:
    """Double precision, where rounding has no time to grow: the whole search agrees."""
    alone, together = found(None, True), by_two(tmp_path, None, True)
    assert together["networks"] == alone["networks"] and len(alone["networks"]) == 2
    torch.testing.assert_close(together["λ"], alone["λ"], atol=1e-6, rtol=1e-6)
