"""How a Ray Train run of Yoso's is started: with which workers, how they find each other, and what ends it.

Nothing here loads torch, and neither does a job's driver or Ray Train's controller, which hold what is defined here: to
load it takes either of them as long as a worker, which would be started as much later.
"""

import os
import socket
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import ray
import ray.train
import ray.util
from ray.train import UserCallback
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from nas_core.spec import SearchSpec
from worker.failures import EndAtOnce

RESIZE_SECONDS = 60.0
WORKER_RESTARTS = 3
"""How often Ray Train starts the workers anew from the last checkpoint within one attempt."""


def trainer(
    loop: str, config: dict[str, Any], spec: SearchSpec, storage: str, name: str, callbacks: Sequence[UserCallback] = ()
) -> DataParallelTrainer:
    """The Ray Train run `name` of `spec`, with its checkpoints in `storage`.

    Each worker calls the function `loop` ("worker.training:train_loop") with `config`.
    """
    return DataParallelTrainer(
        call,
        train_loop_config={"loop": loop, "config": config},
        backend_config=Joined(),
        scaling_config=ray.train.ScalingConfig(**scaling(spec)),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=WORKER_RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[EndAtOnce(), *callbacks],  # type: ignore[list-item]
        ),
    )


def scaling(spec: SearchSpec) -> dict[str, Any]:
    """The fields of Ray Train's `ScalingConfig`, whose types are of an older one that knows no range of workers."""
    least, most = spec.least_workers, spec.workers
    return {
        "num_workers": (least, most) if least < most else most,
        "elastic_resize_monitor_interval_s": float(os.environ.get("YOSO_RESIZE_SECONDS") or RESIZE_SECONDS),
        "use_gpu": spec.gpus_per_worker > 0,
        "resources_per_worker": {"CPU": spec.cpus_per_worker} | ({"GPU": 1} if spec.gpus_per_worker else {}),
        # Ray asks for a thousandth of the node's resource of that type for every worker.
        "accelerator_type": spec.accelerator_type,
    }


def call(told: dict[str, Any]) -> None:
    """What each worker runs: the function `told["loop"]` with `told["config"]`, on the worker's own device."""
    import torch
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    module, _, function = told["loop"].partition(":")
    getattr(import_module(module), function)(told["config"])


class Joined(BackendConfig):
    """Workers that are joined by torch.distributed, like those of `ray.train.torch.TorchConfig`, which loads torch."""

    @property
    def backend_cls(self) -> type["Join"]:
        """What joins them."""
        return Join


class Join(Backend):
    """Joins workers when they have started; whoever is alone needs nobody."""

    share_cuda_visible_devices = True  # NCCL reaches the others' devices then

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let all workers meet at the first one."""
        if len(worker_group) > 1:
            worker_group.execute(join, worker_group.execute_single(0, meeting_point))


def meeting_point() -> str:
    """An address of this node at which nobody listens."""
    address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as free:
        free.bind(("", 0))
        return f"tcp://{f'[{address}]' if ':' in address else address}:{free.getsockname()[1]}"


def join(meeting: str) -> None:
    """Make this process a member of torch.distributed's group, which meets at that address."""
    import torch.distributed as dist

    context = ray.train.get_context()
    backend = "nccl" if ray.get_runtime_context().get_accelerator_ids().get("GPU") else "gloo"
    dist.init_process_group(backend, meeting, rank=context.get_world_rank(), world_size=context.get_world_size())
