"""Images that processes read, vary and hand over while a step trains, by torch's DataLoader.

Every stream of batches has a DataLoader of its own, whose processes stay: an epoch, an evaluation or the next network
to retrain costs none anew. They are forked from a server that has torch and nothing else (`forkserver`): starting one
takes milliseconds, and it has neither CUDA, nor threads, nor whatever the process that trains has imported. What they
read is handed over through pipes, which need no shared memory; that was as fast.

What is drawn for an image follows from the seed, the step and the image's place in the whole batch, and so is the same
for any number of processes, of loaders and of workers.
"""

import multiprocessing
import multiprocessing.forkserver
import signal
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count, pairwise
from multiprocessing.connection import Connection, wait
from threading import Event, Thread
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from nas_core.data.augmentation import Vary
from nas_core.data.decoding import Bytes
from nas_core.data.images import ReadImages
from nas_core.errors import DataChanged, LoaderDied, ReadFailed

AHEAD = 2
"""Batches that are read ahead, besides the one that trains."""
MOST_STREAMS = 4
"""Streams that are kept; one more takes over the processes of that which waited longest."""


class Wanted(NamedTuple):
    """Images of a batch: their `indices`, and their `places` in the whole batch, which decide with `purpose` what is
    drawn to `vary` them."""

    indices: tuple[int, ...]
    places: tuple[int, ...] = ()
    purpose: tuple[Any, ...] = ()
    vary: Vary | None = None

    def split(self, parts: int) -> "Iterator[Wanted]":
        """The same in `parts` of about one size; none is empty."""
        images = len(self.indices)
        bounds = sorted({images * part // parts for part in range(parts + 1)})
        for start, stop in pairwise(bounds):
            yield self._replace(indices=self.indices[start:stop], places=self.places[start:stop])


class Streams:
    """The streams of batches of `images`, each with so many `processes`; with none, images are read when asked for.

    `pin` puts what is read where a GPU can fetch it from while the host goes on.
    """

    def __init__(self, images: ReadImages, processes: int, pin: bool) -> None:
        self.images, self.processes, self.pin = images, processes, pin
        self.evaluation = _Stream(images, processes, pin)
        self.training: OrderedDict[str, _Stream] = OrderedDict()
        if processes:
            _server().ensure_running()  # it imports torch meanwhile

    def batch(self, name: str, step: int, wanted: Callable[[int], Wanted]) -> list[Tensor]:
        """What is `wanted` at `step` of the stream `name`, as bytes in parts (n, C, H, W); the next is begun with.

        Raises `DataChanged`, `ReadFailed`, or `LoaderDied`.
        """
        stream = self.training.pop(name, None)
        if stream is None:
            full = len(self.training) == MOST_STREAMS
            stream = self.training.popitem(last=False)[1] if full else _Stream(self.images, self.processes, self.pin)
        self.training[name] = stream
        return stream.at(step, wanted)

    def each(self, batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
        """The images at each of the `batches` of indices, as bytes in parts. Raises as `batch`."""
        yield from self.evaluation.read(Wanted(tuple(indices.tolist())) for indices in batches)

    def close(self) -> None:
        """End the processes."""
        for stream in (self.evaluation, *self.training.values()):
            stream.close()
        self.training.clear()


class _Stream:
    """One DataLoader, and what it reads."""

    def __init__(self, images: ReadImages, processes: int, pin: bool) -> None:
        self.images, self.processes = images, processes
        self.parts = max(1, processes)
        self.asked: Iterator[Wanted] = iter(())
        # Which image each process reads, for when it dies of that.
        self.reading = torch.full((self.parts,), -1).share_memory_()
        options: dict[str, Any] = {}
        if processes:
            options = {
                "multiprocessing_context": _context(),
                "persistent_workers": True,
                "prefetch_factor": AHEAD,
                "pin_memory": pin,
            }
        self.loader = DataLoader(
            _Reader(images, self.reading),
            batch_size=None,
            sampler=self,
            num_workers=processes,
            generator=torch.Generator(),  # or it would draw from the training's
            **options,
        )
        self.watch: _Watch | None = None
        self.expected = deque[Wanted]()
        self.running: Iterator[list[Tensor]] = iter(())

    def __iter__(self) -> Iterator[Wanted]:
        return self.asked

    def at(self, step: int, wanted: Callable[[int], Wanted]) -> list[Tensor]:
        """What is `wanted` at `step`; unless that follows on what was given last, all begins anew."""
        if not self.expected or self.expected[0] != wanted(step):
            self.expected = expected = deque[Wanted]()

            def from_here() -> Iterator[Wanted]:
                for later in count(step):
                    expected.append(wanted(later))
                    yield expected[-1]

            self.running = self.read(from_here())
        try:
            found = next(self.running)
        except Exception:
            self.expected = deque[Wanted]()
            raise
        self.expected.popleft()
        return found

    def read(self, batches: Iterable[Wanted]) -> Iterator[list[Tensor]]:
        """Each of the `batches`, in parts."""
        sizes: deque[int] = deque()

        def asked() -> Iterator[Wanted]:
            for batch in batches:
                parts = list(batch.split(self.parts))
                sizes.append(len(parts))
                yield from parts

        self.asked = asked()
        with _without_main():
            found = self._watched(iter(self.loader))
        if self.processes and self.watch is None:
            self.watch = _Watch(self._processes(), self.loader._iterator._worker_result_queue._writer)  # type: ignore[union-attr]
        while (first := next(found, None)) is not None:
            yield [first, *(next(found) for _ in range(sizes.popleft() - 1))]

    def _watched(self, found: Iterator[Any]) -> Iterator[Tensor]:
        """What the loader has `found`, or what went wrong with it."""
        while True:
            try:
                part = next(found)
            except StopIteration:
                return
            except (RuntimeError, EOFError) as error:
                if died := self._died():
                    self.close()
                    raise died from error
                raise
            if isinstance(part, Exception):
                raise part
            yield part.tensor()

    def _died(self) -> LoaderDied | None:
        """What became of a process that is gone, if one is."""
        if self.watch is None or all(process.is_alive() for process in self._processes()):
            return None
        number = self.watch.first()
        process, index = self._processes()[number], int(self.reading[number])
        return LoaderDied(process.pid, _cause(process.exitcode), self.images.name(index) if index >= 0 else None)

    def _processes(self) -> list[Any]:
        return list(getattr(self.loader._iterator, "_workers", ()))

    def close(self) -> None:
        """End the processes."""
        self.running, self.asked = iter(()), iter(())
        if self.watch is not None:
            self.watch.close()
            self.watch = None
        if self.loader._iterator is not None and self.processes:
            self.loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
            self.loader._iterator = None


class _Watch:
    """Looks whether one of a loader's `processes` dies, and ends the others and the `pipe` that they write to.

    Who dies while it writes has begun a batch that nobody ends: the others may not write any more, and who reads the
    pipe waits until nobody has it open for writing.
    """

    def __init__(self, processes: list[Any], pipe: Connection) -> None:
        self.closed, self.ended = Event(), list[int]()
        # The thread does not know this object, nor the loader: who lets go of that ends the processes.
        self.thread = Thread(target=_end_all_with_one, args=(processes, pipe, self.closed, self.ended), daemon=True)
        self.thread.start()

    def first(self) -> int:
        """The number of the process that died first; waits until one has."""
        self.thread.join()
        return self.ended[0]

    def close(self) -> None:
        """From now on processes may end."""
        self.closed.set()


def _end_all_with_one(processes: list[Any], pipe: Connection, closed: Event, ended: list[int]) -> None:
    dead = wait([process.sentinel for process in processes])
    if closed.is_set():
        return
    ended += [number for number, process in enumerate(processes) if process.sentinel in dead]
    for process in processes:
        if process.sentinel not in dead:
            process.kill()
    pipe.close()


class _Reader(Dataset[Any]):
    """What reads and varies what is wanted, in a process of its own or here."""

    def __init__(self, images: ReadImages, reading: Tensor) -> None:
        self.images, self.reading = images, reading

    def __getitem__(self, wanted: Wanted) -> "_Pixels | Exception":
        # An exception that DataLoader hands over has lost what it says besides its text.
        try:
            return _Pixels(np.stack([self._one(wanted, number) for number in range(len(wanted.indices))]))
        except (DataChanged, ReadFailed) as error:
            return error

    def _one(self, wanted: Wanted, number: int) -> Bytes:
        index, vary = wanted.indices[number], wanted.vary
        info = get_worker_info()
        self.reading[info.id if info else 0] = index
        if vary is None:
            return self.images.read(index)
        return vary(lambda choose: self.images.read(index, choose), (*wanted.purpose, wanted.places[number]))


class _Pixels:
    """Bytes (n, C, H, W) on their way through a pipe."""

    def __init__(self, pixels: Bytes | Tensor) -> None:
        self.pixels = pixels

    def pin_memory(self) -> "_Pixels":
        """The same in pinned memory; DataLoader asks for it by this name."""
        return _Pixels(self.tensor().pin_memory())

    def tensor(self) -> Tensor:
        """The same as a tensor."""
        return torch.as_tensor(self.pixels)


def _cause(code: int) -> str:
    """What the exit code of a process that should not have ended says."""
    if code >= 0:
        return f"it ended with code {code}"
    name = signal.Signals(-code).name
    maybe = ", maybe by the system for lack of memory" if name == "SIGKILL" else ""
    return f"it was killed by {name}{maybe}"


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])
    return context


def _server() -> Any:
    _context()
    return multiprocessing.forkserver._forkserver


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start in here do not import the program that they are started from, as they otherwise would."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
