"""The service's view of the runs' folders: it writes the specification and reads everything else.

What the files hold is told in `worker/run_folder.py`; a worker and the service share nothing but the folder. Workers
write every file whole, but a disk may have been full, and a file system may show what is half there: what is torn or
odd has an outcome that each method states.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from nas_core.files import FILES
from nas_core.space import Architecture, Reference
from nas_core.storage import StorageUnavailable
from service.domain.retention import Part
from service.folders import model as folder_model
from service.folders.model import MOST_BYTES, MOST_CHUNK, MOST_JSON, MOST_WEIGHTS, Asked, BadFolder
from service.folders.storage import Content, RemoteStorage, storage_of

_CHUNK = re.compile(r"\d{4}-\d{6}\.jsonl")
_RUN = re.compile(r"[a-z0-9_]{1,16}")
_NETWORK = re.compile(r"\d{1,19}(-\d{1,19}-[a-z0-9_]{1,24})?")
_EVENTS = re.compile(r"events\.out\.tfevents\.\d{4}-\d{6}")

CONTACT_SHEET = "dataset/contact-sheet.png"
_MANIFEST, _BEFORE = "dataset/manifest.jsonl.gz", "dataset/before.jsonl.gz"
CHECK_SECONDS = 10.0
_ATTEMPT = re.compile(r"\d{4}")
_OF_ALL = ("journal", "tensorboard", "logs")
"""The folders that all attempts write into; the names of the files there carry the attempt."""
FILES_OF = {
    Part.CHECKPOINTS: ("train", "tune"),
    Part.EVENTS: ("journal", "tensorboard"),
    Part.LOGS: ("logs",),
}
"""The folders of what may be removed of a search that stays."""


class TornFile(RuntimeError):
    """A file that is there and does not hold what it should: a part of it, or something else."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} does not hold a whole JSON object")
        self.name = name


class Runs:
    """The folders of all runs in `storage`, a local folder or an fsspec URL.

    All methods raise `StorageUnavailable` (an `OSError`) where the storage does not do what it should, and those that
    read raise `BadFolder` for what no worker of Yoso leaves (`service.folders.model`). Raises `InvalidValue`
    for a storage that is none.
    """

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self._checked = float("-inf")
        self._problem: str | None = None
        self.files, self.root = storage_of(f"{storage.rstrip('/')}/searches")
        self.remote = isinstance(self.files, RemoteStorage)
        """Whether every look costs a request."""

    def problem(self) -> str | None:
        """Why the storage cannot be used, or None; asked of it once in `CHECK_SECONDS`."""
        if time.monotonic() - self._checked > CHECK_SECONDS:
            try:
                self.files.check()
                self._problem = None
            except StorageUnavailable as error:
                self._problem = str(error.strerror or error)
            self._checked = time.monotonic()
        return self._problem

    def url(self, search_id: str) -> str:
        """The folder of a search, as a worker is told it."""
        return f"{self.storage.rstrip('/')}/searches/{search_id}"

    def path(self, search_id: str, name: str) -> str:
        """Where a file of a search is, in terms of the file system."""
        return f"{self.root}/{search_id}/{name}"

    def attempts(self, search_id: str) -> list[int]:
        """The attempts that have a folder, in order."""
        return sorted(int(name) for name in self.files.names(f"{search_id}/attempts") if _ATTEMPT.fullmatch(name))

    def find(self, search_id: str, name: str) -> str:
        """Where the newest file `name` is that an attempt wrote, below the storage.

        An attempt writes into a folder of its own. Runs by hand, and those of before, have none: the run's own folder
        is looked in last, and is the answer where the file is nowhere.
        """
        if name.partition("/")[0] not in _OF_ALL:
            for number in reversed(self.attempts(search_id)):
                path = f"{search_id}/{of_attempt(number, name)}"
                if self.files.exists(path):
                    return path
        return f"{search_id}/{name}"

    def write(self, search_id: str, name: str, content: bytes) -> None:
        """Write a file whole: nobody sees a part of it, and of several who write it at once one wins."""
        self.files.write(f"{search_id}/{name}", content)

    def create(self, search_id: str, name: str, content: bytes) -> bool:
        """Write a file whole and for good; False where it is there already, which is left as it is."""
        return self.files.create(f"{search_id}/{name}", content)

    def write_spec(self, search_id: str, spec: dict[str, Any], data_roots: tuple[str, ...]) -> bool:
        """Write what the attempt `spec["attempt"]` is to do, once and for good.

        False where it was told something else before, which stays.
        """
        values = spec | {"version": 1, "search_id": search_id, "data_roots": list(data_roots)}
        name, content = of_attempt(spec["attempt"], "spec.json"), json.dumps(values, indent=1).encode()
        return self.create(search_id, name, content) or self.files.read(f"{search_id}/{name}", MOST_JSON) == content

    def close(self, search_id: str, attempt: int) -> None:
        """Let an attempt neither start nor write any more, for good."""
        name = of_attempt(attempt, "closed")
        if not self.files.exists(f"{search_id}/{name}"):
            self.create(search_id, name, b"")

    def result(self, search_id: str, attempt: int, asked: Asked) -> dict[str, Any] | None:
        """The result of an attempt, where it is there and whole, or of one before that nobody overtook.

        What an attempt finished after the next had begun counts no more. Raises `TornFile`.
        """
        numbers = [number for number in reversed(self.attempts(search_id)) if number <= attempt]
        for folder in [of_attempt(number, "") for number in numbers] + [""]:
            result = self._object(f"{search_id}/{folder}result.json")
            if result:
                return folder_model.result(f"{folder}result.json", result, asked)
            if folder and self.files.exists(f"{search_id}/{folder}claimed"):
                return None
        return None

    def error(self, search_id: str, attempt: int) -> dict[str, Any] | None:
        """Why an attempt failed, where its driver wrote it. Raises `TornFile`."""
        own = self._object(f"{search_id}/{of_attempt(attempt, 'error.json')}")
        error = own or self._object(f"{search_id}/error.json")
        if error is None or error.get("attempt") != attempt:
            return None
        return folder_model.failure("error.json", error)

    def read_json(self, search_id: str, name: str) -> dict[str, Any] | None:
        """The JSON object in the newest file of that name, or None where there is no such file.

        Raises `TornFile` for a file that holds anything else.
        """
        return self._object(self.find(search_id, name))

    def _object(self, path: str) -> dict[str, Any] | None:
        try:
            content = self.files.read(path, MOST_JSON)
        except FileNotFoundError:
            return None
        values = folder_model.parse(content)
        if values is None:
            raise TornFile(path)
        return values

    def finalists(self, spec: dict[str, Any]) -> list[dict[str, Any]]:
        """The networks that finals are to retrain, as `worker.tuning.Finalist` knows them, by budget.

        `spec["finals"]` tells the searches `of` which networks compete, each with its `id`, `seed` and `budgets`, and
        the `baselines` to compare with, random ones for each of `seeds`, others for the first. A search that has found
        nothing for one of its budgets has no finalist there. Raises `OSError`.
        """
        finals = spec["finals"]
        found = []
        for budget in spec["budgets"]:
            for source in finals["of"]:
                own = {"budget": budget, "origin": "search", "seed": source["seed"], "source": source["id"]}
                found += [own | one for one in self._networks(source, budget)]
            found += [
                {"budget": budget, "origin": origin, "seed": seed}
                for origin in finals["baselines"]
                for seed in finals["seeds"][: None if origin == "random" else 1]
            ]
        return found

    def bring_manifest(self, search_id: str, spec: dict[str, Any]) -> None:
        """Keep beside finals which files one of their searches was of, for them to tell what has changed since."""
        if self.files.exists(f"{search_id}/{_BEFORE}"):
            return
        for source in spec["finals"]["of"]:
            with suppress(FileNotFoundError, BadFolder):  # finals do without it
                self.create(search_id, _BEFORE, self.files.read(self.find(source["id"], _MANIFEST), MOST_CHUNK))
                return

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
        with suppress(TornFile):
            found = self.genotype(search_id, str(budget))
            return None if found is None else found.to_dict()
        return None

    def genotype(self, search_id: str, network: str) -> Architecture | Reference | None:
        """The network in the folder of that name, or None where there is none. Raises `TornFile`."""
        name = f"architectures/{network}/{FILES['architecture']}"
        values = self.read_json(search_id, name)
        return None if values is None else folder_model.genotype(name, values)

    def chunks(
        self, search_id: str, after: str, asked: Asked | None = None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The journal's chunks behind the one called `after`, in order: name and lines, as `folder_model.lines` has
        them.
        """
        for name in self.files.names(f"{search_id}/journal"):
            if _CHUNK.fullmatch(name) and name > after:
                content = self.files.read(f"{search_id}/journal/{name}", MOST_CHUNK)
                yield name, folder_model.lines(name, content, asked)

    def next_chunks(
        self, search_id: str, after: str, attempt: int, asked: Asked | None = None
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The chunks of an attempt's journal, number by number, that follow on the one called `after`, or begin it.

        As `chunks`, but one request finds that there is none, however long the journal is.
        """
        if after[:4] > f"{attempt:04d}":
            return
        number = int(after[5:11]) if after.startswith(f"{attempt:04d}-") else 0
        while True:
            number += 1
            name = f"{attempt:04d}-{number:06d}.jsonl"
            try:
                content = self.files.read(f"{search_id}/journal/{name}", MOST_CHUNK)
            except FileNotFoundError:
                return
            yield name, folder_model.lines(name, content, asked)

    def tail(self, search_id: str, name: str, size: int) -> bytes:
        """At most the last `size` bytes of a file. Raises `FileNotFoundError`."""
        return self.files.tail(self.find(search_id, name), size)

    def event_files(self, search_id: str) -> list[str]:
        """The names of the event files for TensorBoard, below `tensorboard/`, in order."""
        found: list[str] = []
        for run in self.files.names(f"{search_id}/tensorboard"):
            if run == "networks":
                networks = self.files.names(f"{search_id}/tensorboard/networks")
                folders = [f"networks/{one}" for one in networks if _NETWORK.fullmatch(one)]
            else:
                folders = [run] if _RUN.fullmatch(run) else []
            for folder in folders:
                names = self.files.names(f"{search_id}/tensorboard/{folder}")
                found += [f"{folder}/{name}" for name in names if _EVENTS.fullmatch(name)]
        return found

    def open(self, search_id: str, name: str, most: int = MOST_WEIGHTS) -> Content:
        """A file's content, block by block. Raises `FileNotFoundError`."""
        return self.files.open(self.find(search_id, name), most)

    def network_file(self, search_id: str, network: str, kind: str) -> Content:
        """One of the files of the network in the folder of that name. Raises `FileNotFoundError`."""
        return self.open(search_id, f"architectures/{network}/{FILES[kind]}", MOST_BYTES.get(kind, MOST_WEIGHTS))

    def contact_sheet(self, search_id: str) -> bytes | None:
        """What its networks see of a search's dataset, as PNG, or None where its workers have not got that far."""
        with suppress(FileNotFoundError):
            content = self.read(search_id, CONTACT_SHEET)
            return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None
        return None

    def has_contact_sheet(self, search_id: str) -> bool:
        """Whether there is one, without reading it."""
        return self.files.exists(self.find(search_id, CONTACT_SHEET))

    def read(self, search_id: str, name: str) -> bytes:
        """The content of the newest file of that name, which is not large. Raises `FileNotFoundError`."""
        return self.files.read(self.find(search_id, name), MOST_JSON)

    def folders(self) -> list[str]:
        """The searches that have a folder, in order."""
        return [name for name in self.files.names("") if not name.startswith(".")]

    def prune(self, search_id: str, parts: Part, journal: bool) -> None:
        """Remove the files of some parts of a search, of its events those of the `journal` only if asked to."""
        names = [name for part in Part if part in parts for name in FILES_OF[part]]
        shared = [name for name in names if name in _OF_ALL and (journal or name != "journal")]
        own = [name for name in names if name not in _OF_ALL]
        folders = ["", *(of_attempt(number, "") for number in self.attempts(search_id))] if own else []
        for name in [*shared, *(f"{folder}{name}" for folder in folders for name in own)]:
            self.files.remove(f"{search_id}/{name}")

    def size(self, search_id: str) -> int:
        """The bytes of all files in the folder of a search; 0 where there is none."""
        return self.files.size(search_id)

    def remove(self, search_id: str) -> None:
        """Remove the folder of a search, with all that is in it; nothing happens where there is none."""
        self.files.remove(search_id)


def of_attempt(number: int, name: str) -> str:
    """What an attempt calls `name`, below the run's folder."""
    return f"attempts/{number:04d}/{name}"


def driver_log(attempt: int) -> str:
    """Where what an attempt's driver has printed is kept, below the run's folder."""
    return f"logs/driver-{attempt:04d}.log"
