"""The demonstration behind `make demo`: a service, one search on real scans of digits, and what it finds.

Starts `yoso serve` with its embedded defaults in a fresh folder, submits a search over REST, shows its progress,
prints the networks and brings them to a folder; then stops what it started.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.markup import escape

from service import proxies, terminal
from service.cli import interruptible
from service.client import Client, ClientError, Unreachable
from service.dispatch.local_ray import LocalRay, free_ports
from service.formats import short
from service.terminal import Console

BUDGETS = ["300k", "600k"]
START_SECONDS = 90


def main() -> int:
    """Run the demonstration; returns 0 if it went well."""
    terminal.prepare()
    proxies.spare_loopback()
    return with_service(fresh(Path("yoso-demo")), demonstrate)


def with_service(folder: Path, use: Callable[[Console, Path, Client], int]) -> int:
    """Call `use` with a client of a service of its own in `folder`; returns what that returns, or why it could not."""
    console = Console()
    port = free_ports(1)[0]
    settings = {"YOSO_STORAGE": str(folder / "storage"), "YOSO_PORT": str(port), "YOSO_HOST": "127.0.0.1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("YOSO_")}
    console.print("Starting the service: REST, dashboard, dispatcher, SQLite and a Ray of its own …")
    with (folder / "service.log").open("wb") as log:
        # In a session of its own, so that Ctrl-C does not reach it before we can stop it in order.
        service = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve"],
            stdout=log,
            stderr=log,
            env=inherited | settings,
            start_new_session=True,
        )
    try:
        with interruptible(), Client(f"http://127.0.0.1:{port}") as client:
            give_up = time.monotonic() + START_SECONDS
            while not client.ready():
                if service.poll() is not None or time.monotonic() > give_up:
                    console.print(f"[red]the service did not start[/]; its log is {folder / 'service.log'}")
                    return 1
                time.sleep(0.2)
            return use(console, folder, client)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    except (ClientError, Unreachable, OSError) as error:
        console.print(f"[red]{escape(str(error))}[/]; the service's log is {folder / 'service.log'}", highlight=False)
        return 1
    finally:
        console.print("Stopping the service and its Ray …")
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(60)
        except subprocess.TimeoutExpired:
            service.kill()
            LocalRay(folder / "storage").stop()
            console.print("[red]the service did not stop in time and was killed[/]")


def demonstrate(console: Console, folder: Path, client: Client) -> int:
    """Submit, watch, fetch; returns the exit code."""
    # With the preset's sixty epochs of retraining it would take over ten minutes, for half a point of accuracy.
    search = client.submit("digits", BUDGETS, name="demo", settings={"retrain_epochs": 30})
    console.print(
        f"Submitted search [bold]{search['id']}[/]: scikit-learn's digits, budgets of "
        f"{' and '.join(map(short, search['budgets']))} multiply-adds; the complete supernet costs "
        f"{short(search['supernet_multiply_adds'])}.",
        highlight=False,
    )
    link = client.login_link(f"/searches/{search['id']}")["url"]
    console.print(f"Watch it live at [bold]{escape(link)}[/]", highlight=False, soft_wrap=True)
    with terminal.Watch(console, search["budgets"]) as shown:
        for event in client.events(search["id"]):
            shown.show(event.kind, event.data)
    search = client.get(search["id"])
    if search["status"] != "succeeded":
        told = escape((search["error"] or {}).get("message", ""))
        console.print(f"[red]the search {search['status']}[/]: {told}")
        return 1
    folders = client.fetch(search["id"], folder / "networks")
    console.print(terminal.results(search["architectures"], folders))
    console.print(f"Networks and pictures are in [bold]{folder / 'networks'}[/]", highlight=False)
    return 0


def fresh(folder: Path) -> Path:
    """A new folder called `folder`, or the first free `folder-2`, `folder-3`, …"""
    number = 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            number += 1


if __name__ == "__main__":
    sys.exit(main())
