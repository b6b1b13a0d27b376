"""The whole line with real parts: service, local Ray and worker as processes that are really killed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime import InferenceSession
from playwright.sync_api import Page, expect

from nas_core import Architecture
from service.client import Client
from service.dispatch.local_ray import LocalRay, free_ports, session_members
from tests import browsing

pytestmark = pytest.mark.slow
PATIENCE = 300
SMALL = {
    "Dataset": "digits", "Budgets": "60k, 120k", "Channels": "8", "Blocks": "1, 1", "Levels": "2",
    "Pretraining": "1", "Search": "24", "Retraining": "2", "Baselines": "none",
}  # fmt: skip
"""A search of seconds, by the labels of the form."""
AWAY = re.compile(r"Failed to load resource: net::ERR_|(Event|htmx:sendError|htmx:afterRequest) \[.*/htmx-")
"""What is told of a stream that breaks and of a request that gets no answer, by the browser and by htmx."""


class Service:
    """A `yoso serve` that can be killed and started again in the same place."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, folder / "storage"
        self.port = free_ports(1)[0]
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(f"http://127.0.0.1:{self.port}")

    def start(self) -> None:
        settings = {"YOSO_STORAGE": str(self.storage), "YOSO_PORT": str(self.port), "RAY_worker_niceness": "0"}
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("YOSO_", "RAY_"))}
        # A proxy that is not there: nothing on this machine may ask it.
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            inherited |= {name: "http://127.0.0.1:9", name.upper(): "http://127.0.0.1:9"}
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"], stdout=log, stderr=log, env=inherited | settings
            )
        self.until(self.client.ready)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def until(self, holds: Callable[[], Any]) -> Any:
        assert self.process is not None
        give_up = time.monotonic() + PATIENCE
        while not (value := holds()):
            log = (self.folder / "service.log").read_text()[-3000:]
            assert self.process.poll() is None and time.monotonic() < give_up, log
            time.sleep(0.1)
        return value

    def journal(self, search_id: str, kind: str) -> list[dict[str, Any]]:
        chunks = sorted((self.storage / "searches" / search_id / "journal").glob("*.jsonl"))
        lines = [json.loads(line) for chunk in chunks for line in chunk.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def events(self, search_id: str, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.client.events(search_id) if event.kind == kind]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.client.close()
    if made.process is not None and made.process.poll() is None:
        made.stop()
    LocalRay(made.storage).stop()


@pytest.fixture
def url(service: Service) -> str:
    """Where the service listens while it is there."""
    return service.client.url


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.timeout(900)
def test_a_service_killed_in_mid_search_finds_it_finished_once(
    service: Service, page: Page, complaints: list[str]
) -> None:
    patience = 1000.0 * PATIENCE
    service.start()
    page.goto(service.client.login_link("/submit")["url"])
    for part in ("Search space", "Training schedule", "Finals"):
        page.get_by_text(part, exact=True).click()
    for label, text in SMALL.items():
        page.get_by_label(label, exact=True).fill(text)
    search_id = queue(page)
    page.evaluate("window.neverLoadedAnew = true")
    summary, share, sign = (page.locator(found) for found in ("#summary", "#summary .share", "#connection"))
    expect(summary).to_have_attribute("data-phase", "search", timeout=patience)
    seen = share.inner_text()
    expect(share).not_to_have_text(seen, timeout=patience)
    page.get_by_role("link", name="Curves").click()
    expect(page.locator('[data-chart="multiply_adds"] canvas')).to_be_visible()
    ray_pid = json.loads((service.storage / "ray.json").read_text())["pid"]
    [started] = service.journal(search_id, "started")
    assert complaints == []
    service.kill()
    assert [line["phase"] for line in service.journal(search_id, "phase")] == ["pretrain", "search"], "in mid search"
    assert alive(started["pid"]) and alive(ray_pid), "the search goes on without the service"
    assert service.client.ready() is False
    expect(sign).to_be_visible()

    service.start()
    assert json.loads((service.storage / "ray.json").read_text())["pid"] == ray_pid
    expect(sign).to_be_hidden(timeout=patience)
    assert complaints and all(AWAY.match(told) for told in complaints), complaints
    complaints.clear()

    # A second search, cancelled while it runs: its worker is gone when it says so. Meanwhile the new service waits for
    # the lease of the old one on the first search to expire.
    other = page.context.new_page()
    other.goto(page.get_by_role("link", name="Duplicate").get_attribute("href") or "")
    other.get_by_label("Search", exact=True).fill("10000")
    cancelled = queue(other)
    expect(other.locator("#summary")).to_have_attribute("data-status", "running", timeout=patience)
    [unwanted] = service.until(lambda: service.journal(cancelled, "started"))
    other.on("dialog", lambda dialog: dialog.accept())
    other.get_by_role("button", name="Cancel").click()
    expect(other.locator("#summary")).to_have_attribute("data-status", "cancelled", timeout=patience)
    service.until(lambda: not alive(unwanted["pid"]))
    statuses = [data["status"] for data in service.events(cancelled, "status")]
    assert statuses == ["queued", "launching", "waiting", "running", "cancelling", "cancelled"]

    expect(summary).to_have_attribute("data-status", "succeeded", timeout=patience)
    assert page.evaluate("window.neverLoadedAnew")
    search = service.client.wait(search_id)
    assert search["status"] == "succeeded" and search["attempt"] == 1
    statuses = [data["status"] for data in service.events(search_id, "status")]
    assert statuses == ["queued", "launching", "waiting", "running", "finishing", "succeeded"]
    assert len(service.journal(search_id, "started")) == 1, "it was run once"
    told = [data["epoch"] for data in service.events(search_id, "epoch") if data["phase"] == "search"]
    assert told == list(range(1, 25)), "every epoch was told once, those without the service too"
    assert [one["budget"] for one in search["architectures"]] == [60_000, 120_000]
    for one in search["architectures"]:
        detail = service.client.architecture(one["id"])
        architecture = Architecture.from_dict(detail["architecture"])
        assert 0.9 * one["budget"] <= architecture.multiply_adds <= one["budget"]
        assert service.client.download(one["files"]["picture"]).startswith(b"<svg")
        assert len(service.client.download(one["files"]["weights"])) > 1000
    assert browsing.barriers(page) == []
    page.get_by_role("link", name="Overview").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="ONNX for 60,000").first.click()
    network = InferenceSession(download.value.path())
    [logits] = network.run(None, {"images": np.zeros((3, 1, 8, 8), np.float32)})
    assert logits.shape == (3, 10) and np.isfinite(logits).all()
    page.get_by_role("link", name="Costs of 60,000").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Network for 60,000")
    expect(page.locator(".meters").first).to_contain_text(
        f"{search['architectures'][0]['multiply_adds']:,} multiply-adds"
    )
    page.get_by_role("region", name="Blocks of the network").scroll_into_view_if_needed()  # it is drawn when it is seen
    expect(page.locator(".pictures svg").first).to_be_visible()

    assert service.stop() == 0
    assert not session_members(ray_pid) and not (service.storage / "ray.json").exists()


def queue(page: Page) -> str:
    """Send the form; the id of the search whose page follows."""
    page.get_by_role("button", name="Queue the search").click()
    page.wait_for_url(re.compile("/searches/[a-z2-7]{12}$"))
    return page.url.rpartition("/")[2]


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_the_example_sweeps_and_its_best_network_knows_digits(service: Service, tmp_path: Path) -> None:
    service.start()
    told = subprocess.run(
        [sys.executable, str(Path("examples/sweep.py").absolute())],
        cwd=tmp_path, env=os.environ | {"YOSO_URL": service.client.url, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    digits = [re.search(rf"{words} +(.*)", told.stdout) for words in ("the last digits", "are seen as")]
    asked, seen = (found[1].split() for found in digits if found is not None)
    assert len(asked) == 20 and sum(a == s for a, s in zip(asked, seen, strict=True)) >= 15
    [sweep] = service.client.sweeps()["items"]
    assert sweep["counts"] == {"succeeded": 2}
    ended = service.client.sweep_searches(sweep["id"])["items"]
    trained = [line["origin"] for one in ended for line in service.journal(one["id"], "retrained")]
    networks = len(service.client.pareto(sweep["id"])["points"])
    assert networks == len(trained)
    assert trained.count("search") >= 3 == trained.count("resnet"), "of each budget one of either goes to the end"
    assert (tmp_path / "yoso-sweep" / "front.svg").read_text().count('class="mark"') == networks
    assert "100%" in told.stdout and "●" in told.stdout


def marked(folder: Path) -> list[str]:
    """The processes that were started with TEST_RUN_OF_YOSO set to `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"TEST_RUN_OF_YOSO={folder}\0".encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_search_in_the_foreground_needs_no_service_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "run", "digits", "--budget", "300k", "--to", str(tmp_path / "run")]
    for setting in ("pretrain_epochs=0", "search_epochs=2", "retrain_epochs=1"):
        command += ["--set", setting]
    dead = "http://127.0.0.1:9"  # on every company's laptop there is a proxy, which knows nothing of this machine
    behind = {f"{name}_proxy": dead for name in ("http", "https", "all", "grpc", "HTTP", "HTTPS", "ALL")}
    environment = os.environ | behind | {"TEST_RUN_OF_YOSO": str(tmp_path)}
    log = (tmp_path / "killed.log").open("wb")
    killed = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    give_up = time.monotonic() + PATIENCE
    while not list((tmp_path / "run").glob("journal/*")):
        assert killed.poll() is None and time.monotonic() < give_up
        time.sleep(0.1)
    assert len(marked(tmp_path)) > 5, "the command, the worker, Ray and its workers"
    killed.kill()
    killed.wait()
    log.close()
    while marked(tmp_path):
        assert time.monotonic() < give_up, marked(tmp_path)
        time.sleep(0.1)
    told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert told.returncode == 0, told.stderr
    assert marked(tmp_path) == []
    assert "epoch" in told.stdout and "300,000" in told.stdout
    chunks = [file.read_text() for file in (tmp_path / "run" / "journal").iterdir()]
    lines = [json.loads(line) for chunk in chunks for line in chunk.splitlines()]
    searched = [line["epoch"] for line in lines if line["kind"] == "epoch" and line["phase"] == "search"]
    assert max(searched) == 2, "by the killed attempt, on a slow machine, or by the second"
    found = json.loads((tmp_path / "run" / "result.json").read_text())["architectures"]
    assert [one["winner"] for one in found] == [True, False, False], "in one epoch nobody is stopped"
    assert {one["origin"] for one in found} == {"search", "resnet", "mobilenetv3"}
    for one in found:
        assert 0.9 * 300_000 <= one["multiply_adds"] <= 300_000
