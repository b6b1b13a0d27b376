"""Runs by hand what docker-compose.yml runs, where there is no container engine: `make compose-by-hand`.

Reads the file, sets its variables, and starts the services' commands with their environment as processes of this
machine, in the order of their dependencies; then a small search on the digits must succeed, and be followed to its end
by way of the proxy, though a replica and the dispatcher that works on it are killed on the way. What differs from
containers is in `DIFFERENCES`.
"""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from rich.console import Console
from rich.table import Table

from service.answers import ENDED
from service.client import Client, ClientError, Unreachable
from service.dispatch.local_ray import free_ports
from tests.postgres import postgres_server_in

ROOT = Path(__file__).parents[1]
PATIENCE = 240.0
WATCHERS = 4
"""Enough for both replicas to have some: the proxy gives the next to the one that has fewer."""
SEARCH: dict[str, Any] = {
    "dataset": "digits",
    "budgets": [60_000, 120_000],
    "space": {"preset": "digits", "channels": 8, "blocks": [1, 1], "levels": 2},
    "settings": {"pretrain_epochs": 1, "search_epochs": 60, "retrain_epochs": 2},
    "name": "by hand",
}
PROXY_PORT = "8080"
DIFFERENCES = (
    "host names and ports are 127.0.0.1 and free ports; volumes are folders",
    "PostgreSQL is the pip package's; its image's set-up (role, password, database) is done by this script",
    "nginx is this machine's, with deploy/nginx.conf but for what tells where things are: it asks no name server",
    "nothing restarts what was killed",
    "all processes are of one user, one environment of packages, and one machine",
)


class Misconfigured(Exception):
    """The file cannot be run as it is."""


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `${NAME}`, `${NAME:-default}`, `${NAME:+other}` and `${NAME:?why}` replaced as compose does."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.group(1), match.group(2), match.group(3)
        if kind == ":+":
            return str(rest) if variables.get(name) else ""
        if found := variables.get(name):
            return found
        if kind == ":-":
            return str(rest)
        raise Misconfigured(f"{name} is not set: {rest or 'it has no default'}")

    return re.sub(r"\$\{(\w+)(?:(:[-+?])([^}]*))?\}", value, text)


def substituted(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with every text in it substituted."""
    if isinstance(value, dict):
        return {key: substituted(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [substituted(one, variables) for one in value]
    return substitute(value, variables) if isinstance(value, str) else value


def load(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml that have no profile. Raises `Misconfigured` for a variable without value."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return {name: substituted(one, variables) for name, one in services.items() if "profiles" not in one}


def in_order(services: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The services' names, each after those that it depends on."""
    done: set[str] = set()
    while len(done) < len(services):
        ready = [name for name, one in services.items() if name not in done and done >= set(one.get("depends_on", {}))]
        if not ready:
            raise Misconfigured("the services depend on each other in a circle")
        done.update(ready)
        yield from ready


@dataclass
class Place:
    """Where the services' hosts, ports and volumes are on this machine."""

    services: Mapping[str, Mapping[str, Any]]
    folder: Path
    ports: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = [(name, port) for name, one in self.services.items() for port in one.get("expose", [])]
        wanted.append(("proxy", PROXY_PORT))
        self.ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))

    def local(self, name: str, text: str) -> str:
        """A text of the service `name` as it is to be on this machine."""
        for (host, port), free in self.ports.items():
            text = re.sub(rf"\b{re.escape(host)}:{port}\b", f"127.0.0.1:{free}", text)
        for (host, port), free in self.ports.items():
            if host == name:
                text = re.sub(rf"(?<=[=:]){port}\b|^{port}$", str(free), text)
        for secret in self.services[name].get("secrets", []):
            text = text.replace(f"/run/secrets/{secret}", str(self.folder / "secrets" / secret))
        for volume in self.services[name].get("volumes", []):
            inside = volume.split(":")[1]
            if text == inside:
                text = str(self.folder / inside.strip("/"))
        return text.replace("0.0.0.0", "127.0.0.1") if "dashboard-host" in text else text

    def url(self, name: str, port: str) -> str:
        """Where a service's port is."""
        return f"http://127.0.0.1:{self.ports[name, port]}"


class ByHand:
    """The run: its processes, and what it did and saw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        made = {"database-password": secrets.token_hex(24), "ray-token": secrets.token_hex(32)}
        (folder / "secrets").mkdir()
        for name, text in (made | {"tokens": f"digits={self.token}"}).items():
            (folder / "secrets" / name).write_text(text + "\n")
        self.services = load({})
        self.place = Place(self.services, folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.programs = Path()
        self.checked: set[str] = set()
        self.rows: list[tuple[str, str, str]] = []
        self.began = time.monotonic()
        for one in ("storage", "data", "home", "ray"):
            (folder / one).mkdir()

    def say(self, what: str, result: str) -> None:
        """Note a row of the table, and print it."""
        seconds = f"{time.monotonic() - self.began:.0f} s"
        self.rows.append((seconds, what, result))
        print(f"{seconds:>6}  {what}: {result}", flush=True)

    def environment(self, name: str) -> dict[str, str]:
        """What a service's process sees: what the file says, and what any process needs to find things."""
        given = {k: self.place.local(name, str(v)) for k, v in self.services[name].get("environment", {}).items()}
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder / "ray"),
        } | given

    def command(self, name: str) -> list[str]:
        """A service's command on this machine."""
        return [self.place.local(name, str(word)) for word in self.services[name]["command"]]

    def launch(self, name: str, command: list[str], **more: Any) -> None:
        """Start a service's process, with a log and a session of its own; `more` is for `subprocess.Popen`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **more
            )

    def start(self, name: str) -> None:
        """Start a service."""
        self.launch(name, self.command(name), env=self.environment(name), cwd=self.folder)
        self.say(f"start {name}", " ".join(map(str, self.services[name]["command"])))

    def until(self, what: str, holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Wait until something holds; its value. Raises `Misconfigured` where it takes too long."""
        give_up = time.monotonic() + patience
        while not (value := holds()):
            if time.monotonic() > give_up:
                raise Misconfigured(f"{what}: not within {patience:.0f} s")
            time.sleep(0.2)
        return value

    def healthy(self, name: str) -> None:
        """Wait until a service's own health check says so."""
        test = [self.place.local(name, word) for word in self.services[name]["healthcheck"]["test"][1:]]
        environment = self.environment(name)
        if test[0] == "pg_isready":
            test[0] = str(self.programs / test[0])

        def check() -> bool:
            process = self.processes[name]
            if process.poll() is not None:
                raise Misconfigured(f"{name} ended with {process.returncode}; see {self.folder / name}.log")
            return subprocess.run(test, env=environment, capture_output=True).returncode == 0

        self.until(f"{name} is healthy", check)
        self.say(f"health check of {name}", "passed")

    def postgres(self) -> None:
        """What the image of PostgreSQL does by itself: a role with a password, its database, and TCP."""
        data, given = self.folder / "database", self.environment("postgres")
        with postgres_server_in(data) as server, psycopg.connect(server.get_uri(), autocommit=True) as connection:
            self.programs = server.bin_path
            role, password = given["POSTGRES_USER"], Path(given["POSTGRES_PASSWORD_FILE"]).read_text().strip()
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
            connection.execute(f"CREATE DATABASE {given['POSTGRES_DB']} OWNER {role}")
        (data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        port = str(self.place.ports["postgres", "5432"])
        command = [str(self.programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", port, "-k", ""]
        user = "pgserver" if os.geteuid() == 0 else None
        self.launch("postgres", command, user=user, cwd=data)
        self.say("start postgres", "PostgreSQL of the pip package, with password, over TCP")

    def proxy(self) -> None:
        """What the image of nginx does with deploy/nginx.conf. Raises `Misconfigured` where there is no nginx."""
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise Misconfigured("there is no nginx on this machine; Debian's package nginx-light has it")
        folder = self.folder / "proxy"
        folder.mkdir()
        text = self.place.local("proxy", (ROOT / "deploy" / "nginx.conf").read_text())
        port = self.place.ports["proxy", PROXY_PORT]
        text = text.replace(f"listen {PROXY_PORT};", f"listen 127.0.0.1:{port};").replace(" /tmp/", f" {folder}/")
        text = re.sub(r"^ *resolver .*\n| resolve(?= )", "", text, flags=re.MULTILINE)
        (folder / "nginx.conf").write_text(text)
        self.launch("proxy", [program, "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", "daemon off;"])
        self.say("start proxy", f"{program} with deploy/nginx.conf")

    def kill(self, name: str) -> None:
        """Kill a service's process with SIGKILL."""
        self.processes[name].kill()
        self.processes[name].wait()
        self.say(f"SIGKILL {name}", f"process {self.processes[name].pid} is gone")

    def lease_owner(self, search_id: str) -> str | None:
        """The dispatcher that holds a search, by the process's number in its lease's owner."""
        given = self.environment("api-1")
        password = Path(given["YOSO_DATABASE_PASSWORD_FILE"]).read_text().strip()
        with psycopg.connect(given["YOSO_DATABASE_URL"], password=password) as connection:
            row = connection.execute("SELECT lease_owner FROM searches WHERE id = %s", [search_id]).fetchone()
        parts = (row[0] or "").split("-") if row else []
        return next((n for n in ("dispatch-1", "dispatch-2") if str(self.processes[n].pid) in parts), None)

    def run(self) -> None:
        """All of it. Raises where anything is not as it should be."""
        for name in in_order(self.services):
            for needed, how in self.services[name].get("depends_on", {}).items():
                if how["condition"] == "service_completed_successfully":
                    code = self.processes[needed].wait(PATIENCE)
                    if code != 0:
                        raise Misconfigured(f"{needed} ended with {code}; see {self.folder / needed}.log")
                elif needed not in self.checked:
                    self.healthy(needed)
                    self.checked.add(needed)
            own = {"postgres": self.postgres, "proxy": self.proxy}.get(name)
            own() if own else self.start(name)
        token = self.token
        for name in ("api-1", "api-2"):
            with Client(self.place.url(name, "8765"), token) as client:
                self.until(f"{name} is ready", client.ready)
            self.say(f"readiness of {name}", "ready: database, a dispatcher's report, Ray")
        # Where the search fails, the client is closed first, without which the watchers would wait for its end.
        with ThreadPoolExecutor() as watchers, Client(self.place.url("proxy", PROXY_PORT), token) as client:
            self.search(client, watchers)

    def search(self, client: Client, watchers: Executor) -> None:
        """A search by way of the proxy, of which each of `WATCHERS` is to be told everything once, in order, though a
        replica and the dispatcher are killed."""
        if (code := refused(Client(client.url, "no-such-token-anywhere"))) != 401:
            raise Misconfigured(f"a wrong token was answered with {code}")
        search_id: str = client.submit(**SEARCH)["id"]
        self.say("submit by way of the proxy", f"search {search_id}")
        followed = [watchers.submit(lambda: list(client.events(search_id))) for _ in range(WATCHERS)]
        self.until("the search runs", lambda: client.get(search_id)["status"] == "running")
        holder: str = self.until("a dispatcher holds it", lambda: self.lease_owner(search_id))
        self.say("the search runs", f"held by {holder}")
        self.kill("api-1")
        self.kill(holder)
        taken = self.until("the other takes over", lambda: (h := self.lease_owner(search_id)) != holder and h, 60)
        self.say("lease taken over", f"by {taken}")
        search = self.until("the search ends", lambda: (s := client.get(search_id))["status"] in ENDED and s)
        self.say("the search ended", f"{search['status']}, attempt {search['attempt']}")
        if search["status"] != "succeeded" or search["attempt"] != 1:
            raise Misconfigured(f"the search: {search['status']}, attempt {search['attempt']}, {search['error']}")
        told = [[event.seq for event in one.result(PATIENCE)] for one in followed]
        if any(ids != sorted(set(ids)) or ids != told[0] for ids in told):
            raise Misconfigured(f"events by way of the proxy: {told}")
        self.say("events by way of the proxy", f"{len(told[0])}, each told once to {WATCHERS} watchers, in order")
        for one in search["architectures"]:
            size = len(client.download(one["files"]["weights"]))
            self.say(
                f"network for {one['budget']:,}",
                f"{one['multiply_adds']:,} multiply-adds, accuracy {one['accuracy']:.1%}, weights {size:,} bytes",
            )
        if {one["budget"] for one in search["architectures"]} != set(SEARCH["budgets"]):
            raise Misconfigured("a network is missing")

    def stop(self) -> bool:
        """SIGTERM to what is left, in the order opposite to the start; whether the service's ended with 0."""
        good = True
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                began = time.monotonic()
                os.kill(process.pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
                try:
                    code = process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    code = process.wait()
                self.say(f"stop {name}", f"exit code {code} after {time.monotonic() - began:.1f} s")
                good = good and (code == 0 or not name.startswith(("api", "dispatch")))
        for process in self.processes.values():
            try:  # what a process has left of its session, Ray's above all
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return good


def refused(client: Client) -> int:
    """The status with which a replica refuses."""
    with client:
        try:
            client.list()
        except ClientError as error:
            return error.status
    return 200


def main() -> int:
    """Run it; 0 where everything was as it should be."""
    console = Console(width=140)
    folder = Path(tempfile.mkdtemp(prefix="yoso-by-hand-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user where this is root
    run = ByHand(folder)
    good = False
    try:
        run.run()
        good = True
    except (Misconfigured, ClientError, Unreachable, OSError, subprocess.SubprocessError) as error:
        run.say("FAILED", str(error))
    finally:
        good = run.stop() and good
    table = Table("when", "what", "result", title="docker-compose.yml by hand")
    for row in run.rows:
        table.add_row(*row)
    console.print(table)
    for difference in DIFFERENCES:
        console.print(f"unlike containers: {difference}", highlight=False)
    if good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"[red]failed[/]; logs are in {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
