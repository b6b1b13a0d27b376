"""What the command line shows: live progress, tables of results, and errors; and how it survives any terminal."""

import codecs
import errno
import io
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.console
from rich import box
from rich.console import ConsoleOptions, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from nas_core.data.summary import in_words, summarise
from nas_core.deliver.comparison import headline
from nas_core.space import BESIDE
from nas_core.wording import number_of
from service.formats import duration, exact, in_bytes, rival, short

LINES_OF_A_PHASE = 6
"""About how many lines a phase gets where there are no bars."""
FILES = "each network's files are in"
TELLING = 0.01
"""By how much balanced accuracy differs from accuracy where a narrow table shows it."""
HUNG_UP = 128 + 13
"""The exit code of what SIGPIPE ended, as a shell tells it."""
ASCII = {
    "…": "...", "→": "->", "–": "-", "−": "-", "—": "-", "×": "x", "·": ".", "●": "*", "○": "o", "≥": ">=", "≤": "<=",
    "│": "|", "─": "-", "└": "+", "’": "'", "“": '"', "”": '"', "•": "*", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
"""What stands for Yoso's own signs where an encoding lacks them."""
COMMANDS_TO_TERMINALS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing it: control characters but newline and tab, and changes of direction."""
COLOURS = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "cancelling": "yellow", "running": "cyan",
    "stalled": "yellow",
}  # fmt: skip


def substitute(error: UnicodeError) -> tuple[str, int]:
    """Something that can be shown in the place of characters that an encoding lacks: an error handler for codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(ASCII.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error("yoso", substitute)


class Stream(io.TextIOWrapper):
    """Standard output or error for any terminal and any pipe.

    What its encoding lacks is substituted. Where nobody reads any more, the program ends as SIGPIPE would end it, but
    through its `finally` blocks, so that it stops what it started; `outlives` makes it go on unheard.
    """

    outlives = False

    def write(self, text: str) -> int:
        """Write, or raise `SystemExit` where nobody reads; once, since what cleans up may write as well."""
        try:
            return super().write(text)
        except OSError as error:
            return self._failed(error, len(text))

    def flush(self) -> None:
        """Flush, or raise `SystemExit` as `write` does."""
        try:
            super().flush()
        except OSError as error:
            self._failed(error, 0)

    def _failed(self, error: OSError, written: int) -> int:
        # What is still in the buffers, of this stream and of libraries, has somewhere to go: one word is enough.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        if not self.outlives and threading.current_thread() is threading.main_thread():
            raise SystemExit(HUNG_UP) from None
        return written


def prepare() -> None:
    """Make this process's standard streams survive any encoding and a closed pipe."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # and not what a test or a library has put in its place
            stream.flush()
            encoding, lines, through = stream.encoding, stream.line_buffering, stream.write_through
            setattr(sys, name, Stream(stream.detach(), encoding, "yoso", None, lines, through))


def finish() -> None:
    """Write what is in the buffers. Raises `SystemExit` where nobody reads, `OSError` where it cannot be written."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()


def outlive_readers() -> None:
    """Let this process go on where nobody reads what it says: a service outlives its terminal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Stream):
            stream.outlives = True


def harmless(text: str) -> str:
    """`text` without what a terminal would obey: names, logs and answers may come from anybody."""
    return text if text.isprintable() else COMMANDS_TO_TERMINALS.sub("", text)


class Console(rich.console.Console):
    """Rich's console, which obeys the styles that it is given and nothing that stands in the text itself."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders it, with the texts made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


class Watch:
    """Shows a search's journal as it comes: bars for the whole job and for each phase, costs nearing the budgets.

    Where the console is no terminal, it gets a line now and then instead of the bars.
    """

    def __init__(self, console: Console, budgets: Sequence[int]) -> None:
        self.console, self.budgets = console, budgets
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, min_width=12)),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> "Watch":
        self.progress.start()
        self.whole = self.progress.add_task("whole job", total=1.0, text="")
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def show(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take one journal line or event into the picture."""
        say = self.progress.console.print
        if kind == "status":
            by = f" by {escape(data['by'])}" if data.get("by") else ""
            reason = f": {escape(data['reason'])}" if data.get("reason") else ""
            colour = COLOURS.get(data["status"], "default")
            say(f"[{colour}]{data['status']}[/]{by}{reason}", highlight=False)
        elif kind == "started" and data.get("resumed"):
            say(f"resumed from a checkpoint (attempt {data['attempt']})", highlight=False)
        elif kind == "epoch":
            self._epoch(data)
        elif kind == "architecture":
            used = data["multiply_adds"] / data["budget"]
            found = f"found a network of {exact(data['multiply_adds'])} multiply-adds"
            say(f"{found}: {used:.1%} of the budget of {exact(data['budget'])}", highlight=False)
        elif kind == "retrained":
            right = f"[bold]{data['accuracy']:.1%}[/] of {data['test_images']} test images right"
            say(f"retrained the network for {exact(data['budget'])}{escape(rival(data))}: {right}", highlight=False)
        elif kind == "stopped":
            reached = f"{data['accuracy']:.1%} on validation data after {number_of(data['epoch'], 'epoch')}"
            say(f"stopped the network for {exact(data['budget'])}{escape(rival(data))}: {reached}", highlight=False)
        elif kind == "warning":
            say(f"[yellow]{escape(data['message'])}[/]", highlight=False)

    def _epoch(self, data: Mapping[str, Any]) -> None:
        name = escape(data["phase"] + (f" {short(data['budget'])}" if data.get("budget") else "") + rival(data))
        new = name not in self.bars
        if new:
            self.bars[name] = self.progress.add_task(name, total=data["epochs"], text="")
        text = f"{data['epoch']}/{data['epochs']}  loss {data['loss']:.3f}  accuracy {data['accuracy']:.1%}"
        if data.get("multiply_adds"):
            text += f"  {short(data['multiply_adds'])} → {'/'.join(map(short, self.budgets))}"
        self.progress.update(self.bars[name], completed=data["epoch"], text=text)
        self.progress.update(self.whole, completed=data["progress"], text=f"{data['progress']:.0%}")
        step = max(1, data["epochs"] // LINES_OF_A_PHASE)
        if not self.console.is_terminal and (new or data["epoch"] % step == 0 or data["epoch"] == data["epochs"]):
            self.console.print(f"{name}: epoch {text}", highlight=False, soft_wrap=True)


class Looking:
    """Shows how far a look at a dataset is, where the console is a terminal."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True)),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "Looking":
        self.progress.start()
        self.task = self.progress.add_task("inspecting the dataset", total=None, text="")
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def tell(self, doing: str, done: int, total: int | None) -> None:
        """Show what is done at present, and how many files of how many it is done for."""
        text = exact(done) + (f" of {exact(total)} files" if total else " files")
        self.progress.update(self.task, description=doing, completed=done, total=total, text=text)


MOST_CLASSES = 50
"""Classes that a report has lines for."""


def report(found: Mapping[str, Any]) -> Group:
    """What was found of a dataset, as `Inspection.to_dict` has it: facts, images by class and part, and problems."""
    parts: list[Any] = [Text(printable(found["dataset"]), "bold"), facts(summarise(found))]
    if found["class_names"]:
        table = Table("class", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for part in found["counts"]:
            table.add_column(part, justify="right")
        for name in found["class_names"][:MOST_CLASSES]:
            table.add_row(Text(printable(name)), *(exact(of.get(name, 0)) for of in found["counts"].values()))
        parts.append(table)
        if (more := len(found["class_names"]) - MOST_CLASSES) > 0:
            parts.append(Text(f"and {exact(more)} more classes"))
    for problem in found["problems"]:
        told = printable(f"{problem['reason']}; accepted: {problem['accepted']}")
        parts.append(Text.assemble((problem["field"], "red"), f": {told}"))
    if found["problems"]:
        parts.append(Text("A search cannot use it as it is.", "red"))
    return Group(*parts)


def facts(summary: Mapping[str, Any]) -> Table:
    """What a summary of a dataset says (`nas_core.data.summary`)."""
    told = Table.grid(padding=(0, 2, 0, 0))
    told.add_column(no_wrap=True, style="bold")
    told.add_column(overflow="fold")
    last = ""
    for heading, words in in_words(summary):
        style = "yellow" if heading == "Warning" else ""
        told.add_row("" if heading == last else heading, Text(printable(words), style))
        last = heading
    return told


def printable(text: str) -> str:
    """`text` with what a terminal would obey or cannot show written as Python escapes it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def results(architectures: Iterable[Mapping[str, Any]], folders: Mapping[int, str] | None = None) -> Group:
    """The table of a search's networks, the best of each budget beside others, and what to beware of.

    `folders` says where each budget's files are.
    """
    architectures = list(architectures)
    competed = any(one.get("comparison") or not one.get("winner", True) for one in architectures)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if competed:
        table.add_column("network", no_wrap=True)
    # Beside names 80 columns have no room for everything; where classes are alike in size, so are both accuracies.
    used = () if competed else ("used", "parameters")
    recalls = [one.get("balanced_accuracy") for one in architectures]
    differ = any(
        abs((recall or one["accuracy"]) - one["accuracy"]) >= TELLING
        for one, recall in zip(architectures, recalls, strict=True)
    )
    balanced = ("balanced",) if differ or not competed else ()
    for heading in ("budget", "multiply-adds", *used, "accuracy", "95 % interval", *balanced):
        table.add_column(heading, justify="right", no_wrap=True)
    warnings = []
    for one, recall in zip(architectures, recalls, strict=True):
        name = (one.get("label") or one.get("variant") or one.get("origin", "search")).partition(":")[0]
        warnings += [
            Text(f"{exact(one['budget'])}{', ' + name if competed else ''}: {text}", "yellow")
            for text in one.get("warnings") or ()
        ]
        table.add_row(
            *([("● " if one["winner"] else "  ") + name] if competed else []),
            exact(one["budget"]),
            exact(one["multiply_adds"]),
            *([] if competed else [f"{one['multiply_adds'] / one['budget']:.1%}", exact(one["parameters"])]),
            f"{one['accuracy']:.2%}",
            f"{one['accuracy_low']:.1%} to {one['accuracy_high']:.1%}",
            *([f"{recall:.2%}" if recall is not None else ""] if balanced else []),
        )
    files = [Text(f"{exact(budget):>9}  {folder}") for budget, folder in (folders or {}).items()]
    best = [Text(told) for one in architectures if one.get("winner") and (told := headline(one)) is not None]
    return Group(table, *best, *warnings, *([Text(FILES), *files] if files else []))


def conversion(files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What converted files are like, a line each."""
    for one in files.values():
        told = f"{one['name']}: {one['bytes']:,} bytes"
        if "latency_ms" not in one:
            yield f"{told}, not tested: only Apple's systems run it"
            continue
        if "accuracy" in one:
            told += f", accuracy {one['accuracy']:.2%} (in PyTorch {one['accuracy_in_pytorch']:.2%})"
        images = number_of(one["images"], f"{one['images_from']} image")
        told += f", the same class as in PyTorch for {one['same_class']:,} of {images}"
        yield f"{told}, logits off by at most {one['difference']:.2g}, {one['latency_ms']:.3g} ms an image"


def state_of(search: Mapping[str, Any]) -> str:
    """A search's state in its colour; "stalled" for one that runs without an update for too long."""
    # A service of the last release does not tell of that.
    told = search["status"] if search.get("stalled_for") is None else "stalled"
    return f"[{COLOURS.get(told, 'default')}]{told}[/]"


def searches(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of a page of searches."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("id", "state", "name", "dataset", "budgets", "done", "accuracy", "queued"):
        whole = heading in ("id", "state", "done", "accuracy")
        table.add_column(
            heading, overflow="fold", no_wrap=whole, min_width=7 if heading in ("name", "budgets") else None
        )
    for one in items:
        state = state_of(one)
        budgets = " ".join(map(short, one["budgets"]))
        accuracy = "" if one["accuracy"] is None else f"{one['accuracy']:.1%}"
        submitted = one["created_at"][5:16].replace("T", " ")
        marks = [*(["(finals)"] if one["kind"] == "finals" else []), *one.get("tags", [])]
        name = escape(one["name"]) + "".join(f" [dim]{mark}[/]" for mark in marks)
        row = (one["id"], state, name, escape(one["dataset"]), budgets)
        left = "" if one["seconds_left"] is None else f"\n{duration(one['seconds_left'], 1)} left"
        table.add_row(*row, f"{one['progress']:.0%}{left}", accuracy, submitted)
    return table


def expected(told: Mapping[str, Any]) -> str:
    """How long a search is expected to run, on what schedule, and what it takes."""
    basis = "a rough estimate: no similar search has run on this cluster yet"
    if told["searches"]:
        basis = f"from {number_of(told['searches'], 'search')} on this cluster"
    hours = f"{told['gpu_hours']:.3g} GPU-hours" if told["gpu_hours"] else f"{told['cpu_hours']:.3g} CPU-hours"
    epochs, gpus = told["epochs"], told["gpus_per_worker"]
    with_ = number_of(told["cpus_per_worker"], "CPU") + (" and a GPU" if gpus else "")
    lines = [
        f"expected to run for about {duration(told['seconds'])} on {told['workers']} × {with_}, {hours}",
        f"  between {duration(told['low'])} and {duration(told['high'])}, {basis}",
        f"  {epochs['pretrain']} + {epochs['search']} + {epochs['retrain']} epochs of pretraining, search and "
        f"retraining, on {number_of(told['images'], 'image')}",
        f"  the supernet costs {short(told['supernet_multiply_adds'])} multiply-adds",
    ]
    return "\n".join([*lines, *map(escape, told["notes"])])


def sweeps(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of sweeps and of their searches by state."""
    table = Table("sweep", "name", "project", "searches", "left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in items:
        left = "" if one["seconds_left"] is None or one["done"] else f"about {duration(one['seconds_left'])}"
        paused = "paused, " if one["paused"] else ""
        name = escape(one["name"]) + "".join(f" [dim]{tag}[/]" for tag in one.get("tags", ()))
        stalled = f"[yellow]{one['stalled']} stalled[/] " if one.get("stalled") else ""
        table.add_row(one["id"], name, escape(one["project"]), states_of(one), paused + stalled + left)
    return table


def states_of(sweep: Mapping[str, Any]) -> str:
    """How many searches of a sweep, and how many of its finals, are in each state."""
    return ", finals ".join(
        " ".join(f"[{COLOURS.get(s, 'default')}]{n} {s}[/]" for s, n in counts.items())
        for counts in (sweep["counts"], sweep["finals"])
        if counts
    )


def sweep_line(sweep: Mapping[str, Any]) -> str:
    """How far a sweep is, in a line."""
    left = "" if sweep["seconds_left"] is None or sweep["done"] else f"; about {duration(sweep['seconds_left'])} left"
    stalled = f"; [yellow]{sweep['stalled']} stalled[/]" if sweep.get("stalled") else ""
    return ("paused: " if sweep["paused"] else "") + states_of(sweep) + stalled + left


MARKS = {(True, True): "●", (True, False): "·", (False, False): "○"}
LEGEND = "● on the Pareto front   · beaten by another   ○ random or thin, to compare with"


def front(seen: Mapping[str, Any]) -> Group:
    """A sweep's networks as a plot and a table: ● that no other beats, · others, ○ random and thin ones."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    balanced = seen["by"] == "balanced_accuracy"
    for heading in ("", seen["cost"], "budget", "accuracy", "balanced" if balanced else "95 %", "seed", "network"):
        table.add_column(heading, no_wrap=True)
    for point in seen["points"]:
        interval = f"{point['accuracy_low']:.1%}–{point['accuracy_high']:.1%}"
        if balanced:
            interval = "" if point["balanced_accuracy"] is None else f"{point['balanced_accuracy']:.2%}"
        cells = (f"{point['cost']:,g}", exact(point["budget"]), f"{point['accuracy']:.2%}", interval)
        style = None if point["on_front"] else "dim"
        mark = MARKS[point["origin"] not in BESIDE, point["on_front"]]
        which = str(point["seed"]) if point["origin"] == "search" else f"{point['origin']}, {point['seed']}"
        table.add_row(mark, *cells, which, point["architecture"], style=style)
    placed = [point | {"accuracy": point[seen["by"]]} for point in seen["points"] if point[seen["by"]] is not None]
    return Group(Text(plot(placed) if placed else ""), Text(LEGEND, "dim"), table)


def plot(points: Sequence[Mapping[str, Any]], width: int = 60, height: int = 12) -> str:
    """Accuracy over cost in characters: ● on the front, · below it, ○ random and thin ones."""
    costs, accuracies = ([point[name] for point in points] for name in ("cost", "accuracy"))
    left, right, low, high = min(costs), max(costs), min(accuracies), max(accuracies)
    canvas = [[" "] * width for _ in range(height)]
    for point in sorted(points, key=lambda point: bool(point["on_front"])):
        column = round((point["cost"] - left) / ((right - left) or 1) * (width - 1))
        row = round((high - point["accuracy"]) / ((high - low) or 1) * (height - 1))
        canvas[row][column] = MARKS[point["origin"] not in BESIDE, point["on_front"]]
    labels = [f"{high:7.2%}", *[" " * 7] * (height - 2), f"{low:7.2%}"]
    lines = [f"{label} │{''.join(line)}" for label, line in zip(labels, canvas, strict=True)]
    ends = short(round(left)), short(round(right))
    return "\n".join([*lines, " " * 8 + "└" + "─" * width, " " * 9 + ends[0] + ends[1].rjust(width - len(ends[0]))])


def cluster(seen: Mapping[str, Any]) -> Group:
    """What the cluster has, who holds it, who waits and why."""
    first = f"{seen['held_cpus']} of {seen['cpus']:g} CPUs and {seen['held_gpus']} of {seen['gpus']:g} GPUs are held"
    types = sorted({name for node in seen["nodes"] for name in node["accelerator_types"]})
    named = f" with {', '.join(types)}" if types else ""
    possible = sum(node["possible"] for node in seen["nodes"])
    more = f", and {possible} that may be added" if possible else ""
    lines: list[Any] = [Text(f"{number_of(len(seen['nodes']) - possible, 'node')}{more}{named}; {first}")]
    if seen["error"]:
        lines.append(Text(f"Ray does not answer: {seen['error']}", style="red"))
    if seen["holders"]:
        holders = Table(
            "holds", "project", "workers", "CPUs", "GPUs", "state", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for one in seen["holders"]:
            state = one["status"] + (f": {one['reason']}" if one["reason"] else "")
            needs = (workers(one["workers"], one), str(one["cpus"]), str(one["gpus"]))
            holders.add_row(one["id"] or "…", escape(one["project"]), *needs, escape(state))
        lines.append(holders)
    if seen["queue"]:
        title = f"{len(seen['queue'])} of {seen['queued']} waiting"
        queue = Table(
            "", "waits", "project", "workers", "CPUs", "GPUs", "why", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        for one in seen["queue"]:
            needs = (workers(one["min_workers"], one), str(one["cpus"]), str(one["gpus"]))
            queue.add_row(str(one["place"]), one["id"] or "…", escape(one["project"]), *needs, escape(one["reason"]))
        lines += [Text(title), queue]
    return Group(*lines, projects(seen["projects"]))


def workers(least: int, one: Mapping[str, Any]) -> str:
    """How many workers a search holds or wants, and on what."""
    count = str(least) if least == one["workers"] else f"{least}–{one['workers']}"
    return count + (f" on {escape(one['accelerator_type'])}" if one["accelerator_type"] else "")


def contents(backup: Mapping[str, Any]) -> str:
    """What a backup holds, in words."""
    rows = backup["rows"]
    return (
        f"{rows['searches']:,} searches, {rows['events']:,} events and {sum(rows.values()):,} rows in all, as of "
        f"{when(backup['made_at'])} UTC, of release {backup['release']}, database revision {backup['revision']}"
    )


def some(ids: Sequence[str], most: int = 20) -> str:
    """How many searches these are, and which, or the first of them."""
    more = f" and {len(ids) - most:,} more" if len(ids) > most else ""
    return f"{number_of(len(ids), 'search')} ({', '.join(ids[:most])}{more})"


def projects(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of projects: shares, quotas, and what they hold."""
    headings = ("project", "weight", "share", "running", "queued", "accelerators", "used (s)", "stored")
    table = Table(*headings, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in items:

        def of(value: float, quota: float | None) -> str:
            return f"{value:g}" if quota is None else f"{value:g} of {quota:g}"

        table.add_row(
            escape(one["name"]),
            f"{one['weight']:g}",
            f"{one['share']:.0%}",
            of(one["running"], one["max_running"]),
            of(one["queued"], one["max_queued"]),
            of(one["accelerators"], one["max_accelerators"]),
            f"{one['used']:,.0f}",
            in_bytes(one["stored"]) + ("" if one["max_stored"] is None else f" of {in_bytes(one['max_stored'])}"),
        )
    return table


def tokens(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of tokens: what each opens, since when, and when it was last used."""
    table = Table("token", "project", "may", "made by", "ends", "last used", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in items:
        cells = (one["name"], one["project"], one["role"], one["created_by"] or "")
        times = (when(one["expires_at"], "never"), when(one["last_used_at"], "never"))
        table.add_row(*map(escape, cells), *times)
    return table


def webhooks(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of webhooks: what each is told, and whether it takes it."""
    table = Table(
        "webhook", "project", "events", "URL", "last taken", "state", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for one in items:
        state = "on" if one["off_at"] is None else f"off since {when(one['off_at'])}: {one['off_reason']}"
        cells = (one["id"], one["project"], ", ".join(one["events"]), one["url"], when(one["taken_at"], "never"), state)
        table.add_row(*map(escape, cells))
    return table


def deliveries(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of messages to a webhook, and what came of the last attempt to send each."""
    table = Table("time", "message", "about", "attempts", "outcome", "last", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in items:
        outcome = (one["outcome"] or f"due {when(one['due_at'])}").replace("_", " ")
        last = one["attempts"][-1] if one["attempts"] else None
        came = f"{last['reason'] or last['status']}, after {last['seconds']:.3g} s" if last else ""
        about = one["document"]["data"].get("id", "")
        cells = (when(one["created_at"]), one["type"], about, str(len(one["attempts"])), outcome, came)
        table.add_row(*map(escape, cells))
    return table


def when(time: str | None, never: str = "") -> str:
    """A time of the API as people read it, to the minute, in UTC."""
    return time[:16].replace("T", " ") if time is not None else never


def audit(items: Iterable[Mapping[str, Any]]) -> Table:
    """The table of what was done, and by whom."""
    table = Table("time", "by", "did", "about", "project", "more", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for one in items:
        more = ", ".join(f"{name} {value}" for name, value in one["data"].items() if value is not None)
        did = one["action"].replace("_", " ")
        cells = (when(one["time"]), one["by"] or "", did, one["about"] or "", one["project"] or "", more)
        table.add_row(*map(escape, cells))
    return table
