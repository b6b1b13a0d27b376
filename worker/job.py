"""The entry point of one Ray job: `python -m worker.job RUN_FOLDER`.

Reads the attempt's `spec.json`, runs the search on as many workers as it asks for, and ends with `result.json`
(exit code 0) or `error.json` (1) beside it. Interrupted, it stops its workers in order and leaves with 130; another
attempt resumes from its last checkpoint. Where the attempt has been started before, is closed, or a later one is there,
it writes nothing and leaves with 75; where Ray does not start it leaves with 69. The attempt's number comes from
YOSO_ATTEMPT, or follows the newest in the journal; YOSO_CHECKPOINT_SECONDS says how often a checkpoint is due (5 s, or
100 s in an object store), after any step; it is written while the training goes on.

Where fewer workers will do, it begins with as many as Ray has places for, goes on with fewer where a node is lost, and
with more, up to its number, where one has come: after YOSO_RESIZE_SECONDS (60 s) without a change at the earliest,
since each is a new start of all workers from the last checkpoint.
"""

import argparse
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from worker.run_folder import RunFolder

# Ray Train's controller looks at its workers every 2 s unless told otherwise, and a report waits for it; the rest is
# start-up time that a search of minutes should not pay. A caller's own settings win.
RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
INTERRUPTED = 130
NO_RAY, GAVE_WAY = 69, 75
CHECKPOINT_SECONDS = 5.0
FENCE_SECONDS = 5.0


def main() -> int:
    """Run the search in the folder named on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m worker.job", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="RUN_FOLDER", help="the run's folder: a path or a URL that fsspec knows")
    folder_url = parser.parse_args().folder

    from worker.run_folder import GaveWay, RunFolder

    url = folder_url if "://" in folder_url else os.path.abspath(folder_url)
    attempt = int(os.environ.get("YOSO_ATTEMPT") or RunFolder(url).newest_attempt() + 1)
    folder = RunFolder(url, attempt)
    if folder.result() is not None:
        return 0
    try:
        folder.begin()
    except GaveWay as error:
        print(error, file=sys.stderr)
        return GAVE_WAY
    folder.remove("error.json")
    for name, value in RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    interrupts = Interrupts()
    give_way(folder)
    failure: BaseException | None = None
    try:
        run(folder, attempt)
    except BaseException as error:
        failure = error
    try:
        folder.check()
    except GaveWay as error:
        print(error, file=sys.stderr)
        return GAVE_WAY
    if folder.result() is not None:
        return 0
    if interrupts.came():
        return INTERRUPTED
    if failure is not None:
        traceback.print_exception(failure)
        from worker.failures import compose

        folder.write_json("error.json", compose(folder, attempt, failure))
    return NO_RAY if isinstance(failure, RayStartError) else 1


def run(folder: "RunFolder", attempt: int) -> None:
    """Run the search of `folder` under Ray Train, or its finals under Ray Tune.

    That is on the cluster that RAY_ADDRESS names, or on a local Ray.

    Raises what Ray Train raises when its workers failed too often, and `RuntimeError` where trials did.
    """
    import ray

    from nas_core.spec import SearchSpec

    values = folder.read_json("spec.json")
    spec = SearchSpec.from_dict(values)
    # What a connection takes long to wait for, this takes to load.
    threading.Thread(target=import_module, args=["worker.launch"], name="loading").start()
    try:
        if "RAY_ADDRESS" in os.environ:
            ray.init()
        else:
            cpus = max(os.cpu_count() or 1, spec.least_workers * spec.cpus_per_worker)
            _start_ray(cpus)
    except Exception as error:
        raise RayStartError(f"Ray did not start: {' '.join(str(error).split())[:500]}") from error
    seconds = float(os.environ.get("YOSO_CHECKPOINT_SECONDS") or folder.every(CHECKPOINT_SECONDS))
    if "finalists" in values:
        from worker.tuning import run_finals

        run_finals(folder, attempt, values, seconds)
        return
    config = {"folder": folder.url, "attempt": attempt, "checkpoint_seconds": seconds}
    from worker.launch import trainer

    trainer("worker.training:train_loop", config, spec, folder.url_of(""), "train").fit()


def _start_ray(cpus: int) -> None:
    """Start a Ray on this machine, even where another cluster runs here, to which Ray would connect by itself.

    Its agents are told where to listen, and its raylet where they will: for ports that they choose themselves it waits
    fifteen seconds, in which a slow or busy machine does not load them, and then ends
    (https://github.com/ray-project/ray/issues/65983). `ray.init` has no parameters for that.
    """
    import ray
    from ray._private import parameter, services

    names = ("dashboard_agent_listen_port", "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    params, start = parameter.RayParams, services.start_ray_process

    def params_told(*given: Any, **named: Any) -> Any:
        return params(*given, **named | ports)

    def start_told(command: list[str], *given: Any, **named: Any) -> Any:
        raylet = os.path.basename(command[0]) == "raylet"
        return start([*command, f"--{names[0]}={ports[names[0]]}"] if raylet else command, *given, **named)

    with patch.object(parameter, "RayParams", params_told), patch.object(services, "start_ray_process", start_told):
        ray.init("local", include_dashboard=False, num_cpus=cpus)


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class RayStartError(RuntimeError):
    """Ray did not start, or cannot be reached; another try may do."""


def give_way(folder: "RunFolder", seconds: float | None = None) -> threading.Thread:
    """Interrupt this process as soon as it may not write into `folder` any more, so that it holds nothing for nothing.

    That it does not write is not held by this: every write looks for itself.
    """
    from worker.run_folder import GaveWay

    pause = folder.every(FENCE_SECONDS) if seconds is None else seconds

    def watch() -> None:
        while True:
            try:
                folder.check()
            except GaveWay as error:
                print(error, file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGINT)
                return
            except OSError as error:
                print(f"the run's folder cannot be read just now: {error}", file=sys.stderr, flush=True)
            time.sleep(pause)

    thread = threading.Thread(target=watch, name="fence", daemon=True)
    thread.start()
    return thread


class Interrupts:
    """Knows whether SIGINT has come, whoever handles it.

    Ray Train replaces the handler with its own, which stops the workers in order and ends in one of several ways,
    none of which says why.
    """

    def __init__(self) -> None:
        self.noted, writing = os.pipe()
        os.set_blocking(self.noted, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def came(self) -> bool:
        """Whether SIGINT has come since the start."""
        try:
            return signal.SIGINT in os.read(self.noted, 4096)
        except BlockingIOError:
            return False


if __name__ == "__main__":
    sys.exit(main())
