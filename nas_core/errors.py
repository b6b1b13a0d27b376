"""What goes wrong: a value that cannot be used, a training that diverges, a worker that is lost."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


class InvalidValue(ValueError):
    """A value that cannot be used: which field, what was given, why not, and what would be accepted.

    `field` is the path of the value in the request, such as `"budgets"` or `"space.channels"`. `choices` are requests
    that would be accepted where there are few: each holds the fields that differ and their values, such as
    `{"data.train": "Training", "data.test": "Testing"}`.
    """

    def __init__(
        self, field: str, value: Any, reason: str, accepted: str, choices: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(f"{field}: {reason} (got {value!r}; accepted: {accepted})")
        self.field = field
        self.value = value
        self.reason = reason
        self.accepted = accepted
        self.choices = tuple(dict(choice) for choice in choices)

    def __reduce__(self) -> tuple[type["InvalidValue"], tuple[Any, ...]]:
        return type(self), (self.field, self.value, self.reason, self.accepted, self.choices)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question after the names in `known` that are most like `name`, to end a reason with; empty if none is."""
    alike = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, alike))}?" if alike else ""


def refuse_unknown(part: str, given: Mapping[str, Any], known: Sequence[str], kind: str = "field") -> None:
    """Raises `InvalidValue` for the first name in `given`, the part of a request called `part`, that is not `known`."""
    for name, value in given.items():
        if name not in known:
            raise InvalidValue(
                f"{part}.{name}", value, f"no such {kind}{did_you_mean(name, known)}", "one of " + ", ".join(known)
            )


class Diverged(RuntimeError):
    """The loss of a training step is NaN or infinite, so that going on would be in vain.

    `phase` is "pretrain", "search" or "retrain", `step` the step in it or, for the search, since the beginning of
    pretraining, and `loss` the mean over all workers.
    """

    def __init__(self, phase: str, step: int, loss: float) -> None:
        super().__init__(f"{phase}: the loss of step {step} is {loss}; a smaller learning rate may help")
        self.phase = phase
        self.step = step
        self.loss = loss

    def __reduce__(self) -> tuple[type["Diverged"], tuple[Any, ...]]:
        return type(self), (self.phase, self.step, self.loss)


class OutOfMemory(MemoryError):
    """A training step does not fit into memory: the step's batch of `size` images, which the settings call `field`,
    the bytes that it keeps `per_image`, and what could not be had."""

    def __init__(self, field: str, size: int, per_image: int, cause: str) -> None:
        super().__init__(cause)
        self.field, self.size, self.per_image, self.cause = field, size, per_image, cause

    def __reduce__(self) -> tuple[type["OutOfMemory"], tuple[Any, ...]]:
        return type(self), (self.field, self.size, self.per_image, self.cause)


class LostPeer(RuntimeError):
    """The workers could not exchange something, since another one has failed or cannot be reached."""


class DataChanged(RuntimeError):
    """A search's dataset is not the one that it was submitted for or began with; `changes` says what differs."""

    def __init__(self, message: str, changes: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.changes = dict(changes)

    def __reduce__(self) -> tuple[type["DataChanged"], tuple[Any, ...]]:
        return type(self), (str(self), self.changes)


class ReadFailed(OSError):
    """A file system that did not give a file, though it was asked again; the text says which and why."""


class LoaderDied(RuntimeError):
    """A process that loads images is gone: which, of what, and what it read, if it read anything."""

    def __init__(self, process: int, cause: str, read: str | None) -> None:
        doing = f"while it read {read}" if read is not None else "before it read anything"
        super().__init__(f"process {process}, which loads images, died {doing}: {cause}")
        self.process, self.cause, self.read = process, cause, read

    def __reduce__(self) -> tuple[type["LoaderDied"], tuple[Any, ...]]:
        return type(self), (self.process, self.cause, self.read)
