"""The process that looks at one dataset: `python -m service.inspector`, which only `service.inspections` starts.

It is told on its first line of input what to look at, and answers in lines of JSON: how far it is, and at last what it
found or what makes looking impossible. It ends with its input, and so never outlives the service.
"""

import base64
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from nas_core.data.inspection import inspect
from nas_core.errors import InvalidValue
from nas_core.spec import DataOptions

TELL_SECONDS = 0.2
"""How often it says how far it is."""


def main() -> None:
    """Look at what the first line of input names, and say what is there."""
    asked = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with_input, daemon=True).start()
    # What a decoder prints must not come between the lines that are read.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def tell(**said: Any) -> None:
        answers.write(json.dumps(said).encode() + b"\n")
        answers.flush()

    answer(asked, tell)


def answer(asked: Mapping[str, Any], tell: Callable[..., None]) -> None:
    """Look at what is `asked`, and `tell` how far that is, and at last what was found or what makes it impossible."""
    last = 0.0

    def progress(doing: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            tell(doing=doing, done=done, total=total)

    try:
        options = DataOptions.from_dict(asked["options"])
        where = asked["dataset"], asked["roots"], asked["anywhere"]
        found = inspect(*where, options, progress, asked["image_size"])
        sheet = base64.b64encode(found.contact_sheet()).decode() if found.files or found.kind != "folder" else None
        tell(report=found.to_dict(), info=asdict(found.info), sheet=sheet)
    except InvalidValue as problem:
        tell(problem=[problem.field, problem.value, problem.reason, problem.accepted])
    except MemoryError:
        tell(memory=asked["memory"])


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
