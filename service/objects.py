"""What `Client` returns for searches, sweeps, networks and fronts: the answers of the API, with methods.

The methods refresh, wait, cancel and download, and make tables (pandas), plots (matplotlib) and HTML for notebooks. The
fields are those of `service.answers`. `AsyncClient` returns answers without methods: await those of the client.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, get_origin

from typing_extensions import TypedDict

from nas_core.errors import InvalidValue, did_you_mean
from nas_core.files import FILES
from service import answers
from service.cards import card
from service.formats import duration, exact, percent, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from service.client import Client

Cost = Literal["multiply_adds", "parameters", "activations", "latency_ms"]
COSTS = {"multiply_adds": "multiply-adds", "latency_ms": "latency (ms)"}
"""Labels of costs that differ from their names."""

One = TypeVar("One")


class Page(TypedDict, Generic[One]):
    """A page of searches or sweeps, newest first; pass `next` as `after` for the following page."""

    items: list[One]
    next: str | None


class Bound(answers.Answer):
    """An answer with the client that received it, for methods that ask the service again."""

    _client: "Client"

    @classmethod
    def of(cls, client: "Client", told: Mapping[str, Any]) -> Self:
        """The object with the fields that `client` received."""
        made = cls.__new__(cls)._become(told)
        object.__setattr__(made, "_client", client)
        return made

    def _become(self, told: Mapping[str, Any]) -> Self:
        self.clear()
        self.update(told)
        return self


class Network(Bound, answers.Architecture):
    """A network that a search returned."""

    shown = ("budget", "origin", "winner", "multiply_adds", "parameters", "accuracy", "id")

    def fetch(self, name: str, to: str | Path | None = None) -> Path:
        """Download one of the network's files and return its path.

        `name` is the name of the file, such as `network.onnx`, or a key of `files`. `to` is a path or a folder, by
        default the current folder. An existing file is replaced. Raises `InvalidValue` if there is no such file.
        """
        kind = next((kind for kind, file in FILES.items() if file == name), name)
        if kind not in self.files:
            known = [FILES.get(one, one) for one in self.files]
            why = self.not_exported.get(
                kind, f"the network has no such file{did_you_mean(name, [*known, *self.files])}"
            )
            raise InvalidValue("name", name, why, ", ".join(known))
        path = Path(to or "")
        path = path / FILES.get(kind, kind) if path.is_dir() else path
        content = self._client.download(self.files[kind])
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as folder:
            (new := Path(folder, "new")).write_bytes(content)
            os.replace(new, path)
        return path

    def _repr_html_(self) -> str:
        facts = dict(list(_row(self).items())[1:]) | {"parameters": self.parameters, "files": ", ".join(self.files)}
        return card(f"Network for {exact(self.budget)}", facts)


class Search(Bound, answers.Search):
    """A search, as of the last request: `refresh` and `wait` update it in place."""

    shown = ("id", "name", "status", "phase", "progress", "dataset", "budgets", "accuracy")

    @property
    def url(self) -> str:
        """Its page in the dashboard."""
        return f"{self._client.url}/searches/{self.id}"

    @property
    def networks(self) -> list[Network]:
        """The networks that it found, the same list as `architectures`; empty until it has succeeded."""
        return self.architectures  # type: ignore[return-value] # the client makes them so

    def refresh(self) -> None:
        """Update it from the service."""
        self._become(self._client.get(self.id))

    def wait(self, quiet: bool = False, patience: float = 60.0) -> None:
        """Wait until it has succeeded, failed or been cancelled; `status` and `error` then tell which and why.

        Unless `quiet`, a progress bar shows the phase: on standard error, or below the cell of a notebook. Raises
        `Unreachable` after `patience` seconds without an answer from the service.
        """
        with _watching(self, quiet) as show:
            self._become(self._client.wait(self.id, lambda seen: show(self._become(seen)), patience))

    def cancel(self) -> None:
        """Cancel it. Raises `ClientError` if it has ended."""
        self._become(self._client.cancel(self.id))

    def describe(self, **fields: str | Sequence[str]) -> None:
        """Give it another `name`, `tags` or `description`; what is not given stays as it is."""
        self._become(self._client.describe(self.id, **fields))

    def fetch(self, to: str | Path | None = None, formats: Sequence[str] | None = None) -> dict[int, str]:
        """Download its networks, as `Client.fetch` does, and return the folder of each budget."""
        return self._client.fetch(self.id, to, formats)

    def to_frame(self) -> "DataFrame":
        """Its networks, one per row. Raises `ImportError` without pandas."""
        return _frame(answers.Architecture, self.architectures)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the accuracy of its networks, with 95 % intervals, against multiply-adds, on `ax` or a new figure.

        Markers of delivered networks are filled. Raises `ImportError` without matplotlib and `InvalidValue` without
        networks.
        """
        if not self.architectures:
            told = f"there are no networks to draw: the search is {self.status}"
            raise InvalidValue("status", self.status, told, "a search that has succeeded")
        points = [(one.multiply_adds, one, one.winner) for one in self.architectures]
        return _draw(points, "multiply-adds", "accuracy", ("delivered", "others"), ax)

    def _doing(self) -> str:
        """Its state and progress, in a few words."""
        at = (self.phase or "running") if self.status == "running" else self.status
        why = f": {self.reason}" if self.reason and self.status != "running" else ""
        if (seconds := self.get("stalled_for")) is not None:
            why = f", stalled: no update for {duration(seconds)},"
        left = f", about {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return f"{at}{why} {percent(self.progress, 0)}{left}"

    def _done(self) -> float:
        return self.progress

    def _repr_html_(self) -> str:
        facts = {
            "name": self.name,
            "dataset": self.dataset,
            "budgets": ", ".join(map(short, self.budgets)),
            "error": (self.error or {}).get("message"),
            "notes": "; ".join(self.notes),
        }
        rows = [_row(one) for one in self.architectures]
        return card(f"Search {self.id}", facts, rows, self.url, self.progress, self._doing())


class Front(answers.Front):
    """The networks of a sweep by cost and accuracy; those `on_front` are beaten by no other."""

    shown = ("cost", "by", "points")

    def to_frame(self) -> "DataFrame":
        """The networks, one per row. Raises `ImportError` without pandas."""
        return _frame(answers.Point, self.points)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the networks on `ax` or a new figure; markers of those on the front are filled.

        Raises `ImportError` without matplotlib, `InvalidValue` without networks.
        """
        points = [(one.cost, one, one.on_front) for one in self.points if one[self.by] is not None]
        if not points:
            raise InvalidValue("points", [], "there are no networks to draw", "a sweep with networks")
        return _draw(points, COSTS.get(self.cost, self.cost), self.by, ("on the front", "others"), ax)

    def _repr_html_(self) -> str:
        cost, by = COSTS.get(self.cost, self.cost), self.by.replace("_", " ")
        rows = [
            {
                cost: f"{one.cost:,g}",
                by: "" if one[self.by] is None else percent(one[self.by], 2),
                "origin": one.origin,
                "seed": str(one.seed),
                "on the front": "●" if one.on_front else "",
            }
            for one in self.points
        ]
        return card(f"{len(rows)} networks by {cost} and {by}", {}, rows)


class Sweep(Bound, answers.Sweep):
    """A sweep, as of the last request: `refresh` and `wait` update it in place."""

    shown = ("id", "name", "done", "counts", "finals", "budgets", "seeds")

    @property
    def url(self) -> str:
        """Its page in the dashboard."""
        return f"{self._client.url}/sweeps/{self.id}"

    def refresh(self) -> None:
        """Update it from the service."""
        self._become(self._client.sweep(self.id))

    def wait(self, quiet: bool = False, patience: float = 60.0) -> None:
        """Wait until all of its searches have ended, as `Search.wait` does; a paused sweep has not ended."""
        with _watching(self, quiet) as show:
            self._become(self._client.wait_sweep(self.id, lambda seen: show(self._become(seen)), patience))

    def cancel(self) -> None:
        """Cancel its queued and running searches."""
        self._become(self._client.steer_sweep(self.id, "cancel"))

    def describe(self, **fields: str | Sequence[str]) -> None:
        """Give it another `name` or `description`, or all its searches `tags` in place of those in common."""
        self._become(self._client.describe_sweep(self.id, **fields))

    def each_search(self) -> Iterator[Search]:
        """Its searches, in the order of its points."""
        return self._client.each_search(self.id)

    def front(self, cost: Cost = "multiply_adds", by: answers.By = "accuracy") -> Front:
        """Its networks by cost and accuracy, as `Client.pareto` returns them."""
        return self._client.pareto(self.id, cost, by)

    def to_frame(self) -> "DataFrame":
        """Its networks by multiply-adds and accuracy, one per row. Raises `ImportError` without pandas."""
        return self.front().to_frame()

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw its front, as `Front.plot` does."""
        return self.front().plot(ax)

    def _doing(self) -> str:
        """Its state and progress, in a few words."""
        states = [f"{number} {state}" for state, number in self.counts.items()]
        states += [f"finals {number} {state}" for state, number in self.finals.items()]
        left = f", about {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return ("paused: " if self.paused else "") + ", ".join(states) + left

    def _done(self) -> float:
        states = [*self.counts.items(), *self.finals.items()]
        ended = sum(number for state, number in states if state in answers.ENDED)
        return ended / (sum(number for _, number in states) or 1)

    def _repr_html_(self) -> str:
        budgets, seeds = ", ".join(map(short, self.budgets)), ", ".join(map(str, self.seeds))
        facts = {"name": self.name, "budgets": budgets, "seeds": seeds, "notes": "; ".join(self.notes)}
        return card(f"Sweep {self.id}", facts, (), self.url, self._done(), self._doing())


@contextmanager
def _watching(one: Search | Sweep, quiet: bool) -> Iterator[Callable[[Search | Sweep], object]]:
    """A function that shows progress: on a card in a notebook, with a bar in a terminal, not at all if `quiet`."""
    if quiet:
        yield lambda seen: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from service.terminal import Console

    console = Console(stderr=True)
    if console.is_jupyter:
        handle = import_module("IPython.display").display(one, display_id=True)
        yield handle.update
        return
    words = TextColumn("{task.fields[doing]}", markup=False)
    with Progress(BarColumn(bar_width=24), words, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=1.0, doing=one._doing())
        yield lambda seen: progress.update(task, completed=seen._done(), doing=seen._doing())


def _row(one: answers.Architecture) -> dict[str, str]:
    """A network as a row of the table on a card."""
    return {
        "budget": exact(one.budget),
        "origin": one.label or one.variant or one.origin,
        "multiply-adds": exact(one.multiply_adds),
        "accuracy": percent(one.accuracy, 2),
        "95 % interval": f"{percent(one.accuracy_low)} to {percent(one.accuracy_high)}",
        "delivered": "●" if one.winner else "",
    }


def _frame(kind: type[answers.Answer], rows: Iterable[Mapping[str, Any]]) -> "DataFrame":
    """Answers of one kind as a table, with a column for each field that holds a single value."""
    names = [name for name, field in answers.fields(kind).items() if get_origin(field) not in (list, dict)]
    return _optional("pandas", "to_frame").DataFrame([[row.get(name) for name in names] for row in rows], columns=names)


def _draw(
    points: Sequence[tuple[float, answers.Answer, bool]],
    cost: str,
    by: str,
    names: tuple[str, str],
    ax: "Axes | None",
) -> "Axes":
    """Draw `by` against cost for points of (cost, network, whether its marker is filled)."""
    if ax is None:
        ax = _optional("matplotlib.pyplot", "plot").subplots()[1]
    for marked, name in zip((True, False), names, strict=True):
        if chosen := [(at, one) for at, one, is_marked in points if is_marked == marked]:
            heights = [one[by] for _, one in chosen]
            spans = [(one[by] - one["accuracy_low"], one["accuracy_high"] - one[by]) for _, one in chosen]
            ax.errorbar(
                [at for at, _ in chosen],
                heights,
                yerr=list(zip(*spans, strict=True)) if by == "accuracy" else None,
                fmt="o",
                capsize=2,
                fillstyle="full" if marked else "none",
                label=name,
            )
    ax.set_xlabel(cost)
    ax.xaxis.set_major_formatter(lambda at, _: short(at))
    ax.set_ylabel(by.replace("_", " "))
    ax.legend()
    return ax


def _optional(module: str, method: str) -> Any:
    """Import an optional module. Raises `ImportError` that tells how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{method}() needs {package}: pip install {package}", name=package) from error
