"""The service's view of the runs' folders: it writes the specification and reads everything else.

What the files hold is told in `worker/run_folder.py`; a worker and the service share nothing but the folder. Workers
write every file whole, but a disk may have been full, and a file system may show what is half there: what is torn or
odd has an outcome that each method states.
"""

import json
import math
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

_ATTEMPT = re.compile(r"\d{4}")
_OF_ALL = ("journal", "tensorboard", "logs")
"""The folders that all attempts write into; the names of the files there carry the attempt."""


class TornFile(RuntimeError):
    """A file that is there and does not hold what it should: a part of it, or something else."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} does not hold a whole JSON object")
        self.name = name


class Runs:
    """The folders of all runs in `storage`, a local folder or an fsspec URL."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.fs, root = url_to_fs(storage)
        self.root = str(root).rstrip("/")
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def url(self, search_id: str) -> str:
        """The folder of a search, as a worker is told it."""
        return f"{self.storage.rstrip('/')}/searches/{search_id}"

    def path(self, search_id: str, name: str) -> str:
        """Where a file of a search is, in terms of the file system."""
        return f"{self.root}/searches/{search_id}/{name}"

    def attempts(self, search_id: str) -> list[int]:
        """The attempts that have a folder, in order. Raises `OSError`."""
        self.fs.invalidate_cache()
        try:
            paths = self.fs.ls(self.path(search_id, "attempts"), detail=False)
        except FileNotFoundError:
            return []
        names = (posixpath.basename(str(path)) for path in paths)
        return sorted(int(name) for name in names if _ATTEMPT.fullmatch(name))

    def find(self, search_id: str, name: str) -> str:
        """Where the newest file `name` is that an attempt wrote, in terms of the file system.

        An attempt writes into a folder of its own. Runs by hand, and those of before, have none: the run's own folder
        is looked in last, and is the answer where the file is nowhere.
        """
        if name.partition("/")[0] not in _OF_ALL:
            for number in reversed(self.attempts(search_id)):
                path = self.path(search_id, of_attempt(number, name))
                if self.fs.exists(path):
                    return path
        return self.path(search_id, name)

    def write(self, search_id: str, name: str, content: bytes) -> None:
        """Write a file whole: nobody sees a part of it, and of several who write it at once one wins.

        Raises `OSError`. It is not forced to the disk: with the machine Ray dies too, and the next attempt writes it.
        """
        path = self.path(search_id, name)
        if not self.local:
            self.fs.pipe_file(path, content)
            return
        temporary = _temporary(path, content)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def create(self, search_id: str, name: str, content: bytes) -> bool:
        """Write a file whole and for good; False where it is there already, and stays as it is. Raises `OSError`."""
        path = self.path(search_id, name)
        try:
            if not self.local:
                self.fs.pipe_file(path, content, mode="create")
                return True
            temporary = _temporary(path, content)
            try:
                Path(path).hardlink_to(temporary)
            finally:
                temporary.unlink()
            return True
        except FileExistsError:
            return False

    def write_spec(self, search_id: str, spec: dict[str, Any], data_roots: tuple[str, ...]) -> None:
        """Write what the attempt `spec["attempt"]` is to do, once and for good. Raises `OSError`."""
        values = spec | {"version": 1, "search_id": search_id, "data_roots": list(data_roots)}
        name = of_attempt(spec["attempt"], "spec.json")
        self.create(search_id, name, json.dumps(values, indent=1).encode())

    def close(self, search_id: str, attempt: int) -> None:
        """Let an attempt neither start nor write any more, for good. Raises `OSError`."""
        name = of_attempt(attempt, "closed")
        if not self.fs.exists(self.path(search_id, name)):
            self.create(search_id, name, b"")

    def result(self, search_id: str, attempt: int) -> dict[str, Any] | None:
        """The result of an attempt, where it is there and whole, or of one before that nobody overtook.

        What an attempt finished after the next had begun counts no more. Raises `TornFile` and `OSError`.
        """
        numbers = [number for number in reversed(self.attempts(search_id)) if number <= attempt]
        for folder in [of_attempt(number, "") for number in numbers] + [""]:
            result = self._object(self.path(search_id, f"{folder}result.json"))
            if result and result.get("architectures"):
                return result
            if folder and self.fs.exists(self.path(search_id, f"{folder}claimed")):
                return None
        return None

    def error(self, search_id: str, attempt: int) -> dict[str, Any] | None:
        """Why an attempt failed, where its driver wrote it. Raises `TornFile` and `OSError`."""
        own = self._object(self.path(search_id, of_attempt(attempt, "error.json")))
        error = own or self._object(self.path(search_id, "error.json"))
        return error if error is not None and error.get("attempt") == attempt else None

    def read_json(self, search_id: str, name: str) -> dict[str, Any] | None:
        """The JSON object in the newest file of that name, or None where there is no such file.

        Raises `TornFile` for a file that holds anything else, and `OSError` where it cannot be reached.
        """
        return self._object(self.find(search_id, name))

    def _object(self, path: str) -> dict[str, Any] | None:
        try:
            content = self.fs.cat_file(path)
        except FileNotFoundError:
            return None
        values = _parse(content)
        if values is None:
            raise TornFile(path.removeprefix(f"{self.root}/searches/"))
        return values

    def finalists(self, spec: dict[str, Any]) -> list[dict[str, Any]]:
        """The networks that finals are to retrain, as `worker.tuning.Finalist` knows them, by budget.

        `spec["finals"]` tells the searches `of` which networks compete, each with its `id`, `seed` and `budgets`, and
        the `baselines` to compare with, random ones for each of `seeds`. A search that has found nothing for one of its
        budgets has no finalist there. Raises `OSError`.
        """
        finals = spec["finals"]
        seeds = {"random": finals["seeds"], "thin": finals["seeds"][:1]}
        found = []
        for budget in spec["budgets"]:
            for source in finals["of"]:
                own = {"budget": budget, "origin": "search", "seed": source["seed"], "source": source["id"]}
                found += [own | one for one in self._networks(source, budget)]
            found += [
                {"budget": budget, "origin": origin, "seed": seed}
                for origin in finals["baselines"]
                for seed in seeds[origin]
            ]
        return found

    def _networks(self, source: dict[str, Any], budget: int) -> list[dict[str, Any]]:
        """The network that a search found for a budget, if it did.

        For a budget that it was not asked for, the largest below it that it passed on its way or found for another: its
        widths are still to be fitted.
        """
        if budget in source["budgets"]:
            own = self._genotype(source["id"], budget)
            return [] if own is None else [{"architecture": own}]
        passed: list[tuple[int, dict[str, Any]]] = [
            (line["multiply_adds"], line["architecture"])
            for _, lines in self.chunks(source["id"], "")
            for line in lines
            if line["kind"] == "snapshot" and line["multiply_adds"] <= budget
        ]
        below = max((one for one in source["budgets"] if one < budget), default=None)
        if below is not None and (other := self._genotype(source["id"], below)) is not None:
            passed.append((below, other))
        largest = max(passed, key=lambda one: one[0], default=None)
        return [] if largest is None else [{"architecture": largest[1], "fit": True}]

    def _genotype(self, search_id: str, budget: int) -> dict[str, Any] | None:
        try:
            return self.read_json(search_id, f"architectures/{budget}/architecture.json")
        except TornFile:
            return None

    def chunks(self, search_id: str, after: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The journal's chunks behind the one called `after`, in order: name and lines.

        In the place of a line that is no object with a `kind` and a `time` there is one of the kind `torn`, with the
        time of the line before it (0 for the first), the chunk's name as `file`, and the number of the `line` from 1.
        Raises `OSError`.
        """
        self.fs.invalidate_cache()
        folder = self.path(search_id, "journal")
        try:
            names = sorted(posixpath.basename(str(path)) for path in self.fs.ls(folder, detail=False))
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(".jsonl") and name > after:
                yield name, _lines(name, self.fs.cat_file(f"{folder}/{name}"))

    def tail(self, search_id: str, name: str, size: int) -> bytes:
        """At most the last `size` bytes of a file. Raises `FileNotFoundError`."""
        path = self.find(search_id, name)
        return bytes(self.fs.cat_file(path, start=max(0, self.fs.size(path) - size)))

    def below(self, search_id: str, folder: str) -> dict[str, bytes]:
        """What is in all files below a folder, by their names there, in order; nothing where there is no such folder.

        Raises `OSError`.
        """
        self.fs.invalidate_cache()
        root = self.path(search_id, folder)
        paths = [path for path in self.fs.find(root) if not str(path).endswith(".tmp")]
        contents = self.fs.cat(paths) if paths else {}
        return {str(path).removeprefix(f"{root}/"): bytes(contents[path]) for path in paths}

    def read(self, search_id: str, name: str) -> bytes:
        """The content of the newest file of that name. Raises `FileNotFoundError`."""
        return bytes(self.fs.cat_file(self.find(search_id, name)))


def of_attempt(number: int, name: str) -> str:
    """What an attempt calls `name`, below the run's folder."""
    return f"attempts/{number:04d}/{name}"


def _temporary(path: str, content: bytes) -> Path:
    """A file with `content` beside `path`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(f"{path}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return temporary


def _lines(name: str, content: bytes) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), start=1):
        line = _parse(text)
        if line is None or not isinstance(line.get("kind"), str) or not _is_time(line.get("time")):
            time = lines[-1]["time"] if lines else 0
            line = {"kind": "torn", "time": time, "file": name, "line": number}
        lines.append(line)
    return lines


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12


def _parse(content: bytes) -> dict[str, Any] | None:
    """The JSON object in `content`, or None where there is none. Numbers are finite: no database takes others."""
    try:
        values = json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
