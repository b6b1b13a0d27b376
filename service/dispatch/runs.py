"""The service's view of the runs' folders: it writes the specification and reads everything else.

What the files hold is told in `worker/run_folder.py`; a worker and the service share nothing but the folder.
"""

import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs


class Runs:
    """The folders of all runs in `storage`, a local folder or an fsspec URL."""

    def __init__(self, storage: str) -> None:
        self.storage = storage
        self.fs, root = url_to_fs(storage)
        self.root = str(root).rstrip("/")

    def url(self, search_id: str) -> str:
        """The folder of a search, as a worker is told it."""
        return f"{self.storage.rstrip('/')}/searches/{search_id}"

    def path(self, search_id: str, name: str) -> str:
        """Where a file of a search is, in terms of the file system."""
        return f"{self.root}/searches/{search_id}/{name}"

    def write_spec(self, search_id: str, spec: dict[str, Any], data_roots: tuple[str, ...]) -> None:
        """Write what the worker is to do, whole."""
        values = spec | {"version": 1, "search_id": search_id, "data_roots": list(data_roots)}
        path = self.path(search_id, "spec.json")
        content = json.dumps(values, indent=1).encode()
        if "file" not in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)):
            self.fs.pipe_file(path, content)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(path + ".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)

    def read_json(self, search_id: str, name: str) -> dict[str, Any] | None:
        """The JSON object in a file, or None where there is no such file."""
        try:
            values = json.loads(self.fs.cat_file(self.path(search_id, name)))
        except FileNotFoundError:
            return None
        return values if isinstance(values, dict) else None

    def chunks(self, search_id: str, after: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """The journal's chunks behind the one called `after`, in order: name and lines."""
        self.fs.invalidate_cache()
        folder = self.path(search_id, "journal")
        try:
            names = sorted(posixpath.basename(str(path)) for path in self.fs.ls(folder, detail=False))
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(".jsonl") and name > after:
                text = self.fs.cat_file(f"{folder}/{name}").decode()
                yield name, [json.loads(line) for line in text.splitlines()]

    def read(self, search_id: str, name: str) -> bytes:
        """A file's content. Raises `FileNotFoundError`."""
        return bytes(self.fs.cat_file(self.path(search_id, name)))
