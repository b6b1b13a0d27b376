"""The command line on terminals of all kinds, and into pipes that close."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import rich.console

from service import cli, terminal
from service.client import Client
from tests import seeding

SEVERAL = """
import json, os, sys
from service import cli
for words in json.loads(sys.argv[1]):
    if (pid := os.fork()) == 0:
        sys.argv = ["yoso", *words]
        cli.main()
    print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Several commands, for the price of one start."""
NAMES = ("Käse 🧀", "\x1b[31mred\x1b[2J\x9b1m\x07", "[red]no markup[/red] :smile:", "mirrored \u202ecod.exe")


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One database only: what is under test here speaks HTTP and knows none."""
    return seeding.sqlite_url(tmp_path)


@pytest.fixture
def named(url: str) -> Iterator[str]:
    """A service with searches of names that terminals stumble over."""
    with Client(url) as client:
        for name in NAMES:
            client.cancel(client.submit("digits", ["300k"], name=name)["id"])
    yield url


def environment(**changed: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    return kept | {"COLUMNS": "160"} | changed


def shell(line: str, **changed: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a line of bash, in which `yoso` is the command line."""
    script = f'yoso() {{ {sys.executable} -m service.cli "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", script], capture_output=True, env=environment(**changed))


@pytest.mark.parametrize(
    ("changed", "encoding", "cheese"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "ascii", "K?se ?"),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, "latin-1", "Käse ?", marks=pytest.mark.proof),
        ({"PYTHONIOENCODING": "cp1252:strict"}, "cp1252", "Käse ?"),
        pytest.param(
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii", "K?se ?", marks=pytest.mark.proof
        ),
        ({"LC_ALL": "C.UTF-8"}, "utf-8", "Käse 🧀"),
    ],
)
def test_any_encoding_gets_what_it_can_show(changed: dict[str, str], encoding: str, cheese: str, named: str) -> None:
    with Client(named) as client:
        [cheesy] = [one["id"] for one in client.list()["items"] if "K" in one["name"]]
    commands = [["list"], ["show", cheesy], ["watch", cheesy], ["cluster"], ["list", "--json"], ["--help"], ["shwo"]]
    words = [[*one, *(["--url", named] if one[0] in ("list", "show", "watch", "cluster") else [])] for one in commands]
    told = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(words)], capture_output=True, env=environment(**changed)
    )
    out, error = told.stdout.decode(encoding), told.stderr.decode(encoding)
    assert [line for line in out.splitlines() if line.startswith("exit")] == [
        f"exit {code}" for code in (0, 0, 3, 0, 0, 0, 2)
    ], error
    assert out.count(cheese) == 3 and "Traceback" not in error and "No such command" in error
    [listed] = [json.loads(line) for line in out.splitlines() if line.startswith('{"items')]
    assert {one["name"] for one in listed["items"]} == set(NAMES)


def test_names_do_not_command_the_terminal(named: str) -> None:
    told = shell(f"yoso list --url {named}", TERM="xterm-256color", FORCE_COLOR="1").stdout.decode()
    assert "\x1b[33mcancelled\x1b[0m" in told, "styles are the console's own"
    assert "[31mred[2J1m" in told and "\x1b[31m" not in told and "\x1b[2J" not in told
    assert not {"\x07", "\x9b", "\u202e"} & set(told)
    assert "[red]no markup[/red] :smile:" in told


@pytest.mark.parametrize(
    "line",
    [
        "yoso list --json | head -c 10",
        "yoso list | head -c 10",
        "yoso --help | head -c 10",
        "yoso list --url http://127.0.0.1:1 2>&1 | true",
        "yoso list --json 2>/dev/null | true",
    ],
)
def test_a_closed_pipe_ends_it_without_a_word(line: str, named: str) -> None:
    told = shell(f"set -o pipefail; {line}", YOSO_URL=named, PYTHONUNBUFFERED="1")
    assert told.stderr == b"" and told.returncode in (0, terminal.HUNG_UP, 1 if "2>&1" in line else 0)


def test_streams_that_are_closed_or_full_are_told_of(named: str) -> None:
    full = shell("yoso list > /dev/full", YOSO_URL=named)
    assert full.returncode == 1 and full.stderr == b"No space left on device\n"
    closed = shell("yoso list >&- 2>&- <&-", YOSO_URL=named)
    assert closed.returncode == 0


def test_an_interrupt_ends_it_with_130(url: str) -> None:
    with Client(url) as client:
        search = client.submit("digits", ["300k"])["id"]
    command = [sys.executable, "-m", "service.cli", "watch", search, "--url", url]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watching.stdout is not None
    assert b"queued" in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate()
    assert watching.returncode == 130 and b"Traceback" not in told


def test_a_bug_is_told_in_two_lines_and_shown_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: object) -> None:
        raise KeyError("no[thing]")

    monkeypatch.setattr(cli, "Client", broken)
    for words, traced in ((["list"], False), (["list", "--debug"], True)):
        monkeypatch.setattr(sys, "argv", ["yoso", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr().err
        assert end.value.code == 1 and "this is a bug in Yoso: KeyError: 'no[thing]' (test_terminal.py" in told
        assert ("Traceback" in told) is traced and ("--debug" in told) is not traced


@pytest.fixture
def stranger() -> Iterator[str]:
    """Something on the web that is not a Yoso service; its URL."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"<html><style>p {}</style><title>\nAccess &amp; denied</title><body>" + b"<p>no</p>" * 5000
            self.send_response(403)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *told: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_what_is_no_yoso_service_is_told_as_such(stranger: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.app(["list", "--url", stranger])
    told = capsys.readouterr().err.strip()
    assert told == f"what answers at {stranger}/ is not a Yoso service: 403 Forbidden, 'Access & denied'"


@pytest.mark.parametrize(("recalls", "shown"), [((0.99, 0.98), False), ((0.99, 0.9), True), ((None, None), False)])
def test_networks_that_competed_fit_80_columns(recalls: tuple[float | None, ...], shown: bool) -> None:
    """Balanced accuracy is shown where it says something else than accuracy."""
    rows = [
        {
            "budget": 300_000_000, "multiply_adds": 299_999_999, "parameters": 1_000_000, "winner": number == 0,
            "origin": origin, "accuracy": 0.985, "accuracy_low": 0.97, "accuracy_high": 0.99,
            "balanced_accuracy": recall,
        }
        for number, (origin, recall) in enumerate(zip(("mobilenetv3_small", "search"), recalls, strict=True))
    ]  # fmt: skip
    printed = io.StringIO()
    rich.console.Console(width=80, file=printed).print(terminal.results(rows))
    told = printed.getvalue()
    assert ("balan" in told) == shown
    assert shown or "…" not in told
