"""Delivered networks as LiteRT and Core ML, written in the environment of the converter."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nas_core
from nas_core.errors import InvalidValue
from nas_core.files import FILES

INSTALL = {
    "litert": "a Python that has litert-torch, which needs an older torch than Yoso: `python3.11 -m venv litert && "
    "litert/bin/pip install litert-torch==0.10.0` (7 GB), then `--python litert/bin/python`",
    "coreml": "a Python that has coremltools: `pip install coremltools==9.0` beside Yoso, or `--python PATH`",
}
"""The formats, each with how its converter is installed."""
READ = ("python", "predict", "weights")
"""The files of a network that are needed, by kind."""
_SCRIPT = Path(nas_core.__path__[0], "deliver", "conversion.py")
_LINES = 15
"""What is told of the log of a converter that failed."""


def convert(folder: Path, form: str, test: Path | None, int8: Path | None, python: str | None) -> dict[str, Any]:
    """Have the interpreter `python` (or this one) write the network in `folder` as `form`, and return its report.

    Raises `InvalidValue` for what the user can change, and `OSError` where the conversion fails.
    """
    python = python or sys.executable
    if form not in INSTALL:
        raise InvalidValue("--format", form, "no such format", " or ".join(INSTALL))
    for option, images in (("--test", test), ("--int8", int8)):
        if images is not None and form == "coreml":
            raise InvalidValue(
                option, str(images), "Core ML files do not run on this machine", "--format litert with it"
            )
        if images is not None and not images.is_dir():
            raise InvalidValue(option, str(images), "not a folder", "a folder of images")
    if absent := [FILES[kind] for kind in READ if not (folder / FILES[kind]).is_file()]:
        accepted = f"the folder of one network, with {', '.join(FILES[kind] for kind in READ)}"
        raise InvalidValue("FOLDER", str(folder), f"{' and '.join(absent)} missing", accepted)
    paths = {"folder": folder, "test": test, "int8": int8}
    options = {"to": form, "paths": {name: path and str(path.absolute()) for name, path in paths.items()}}
    try:
        done = subprocess.run(
            [python, str(_SCRIPT), json.dumps(options)],
            capture_output=True, encoding="utf-8", errors="replace", env=os.environ | {"PYTHONUTF8": "1"},
        )  # fmt: skip
    except OSError as error:
        raise InvalidValue("--python", python, f"cannot be run: {error.strerror}", "a Python interpreter") from error
    if done.returncode != 0:
        log = "\n".join(done.stderr.splitlines()[-_LINES:])
        raise OSError(f"{python} could not convert the network (exit code {done.returncode}):\n{log}")
    report: dict[str, Any] = json.loads(done.stdout)
    if "lacking" in report:
        raise InvalidValue("--python", python, f"{' and '.join(report['lacking'])} not installed", INSTALL[form])
    if "refused" in report:
        option, value, reason, accepted = report["refused"]
        raise InvalidValue(f"--{option}", value, reason, accepted)
    return report
