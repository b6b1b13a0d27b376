"""What a search's page tells beside its state: finals by trial, snapshots, costs, attempts, logs, copies, advice."""

import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from rich.text import Text
from sqlalchemy import update
from typer.testing import CliRunner

from nas_core.files import FILES
from nas_core.space import Architecture
from service import terminal
from service.cli import app as commands
from service.client import Client, ClientError
from service.dashboard import logs
from service.dashboard.advice import ADVICE
from service.dispatch.dispatcher import NOT_WAITED, PREEMPTED
from service.dispatch.process import Dispatching
from service.domain.lifecycle import Status
from service.domain.request import SearchRequest
from service.folders import model as folder_model
from service.folders.model import Asked, BadFolder
from service.folders.runs import CONTACT_SHEET
from service.store.database import writing
from service.store.deadlines import DEADLINE, NOT_STARTED
from service.store.models import Search
from service.store.work import Work
from service.use_cases import logs as reading
from tests import seeding
from tests.ray_double import TOKEN, ray_double
from tests.unit.service.test_dashboard import text

ROOT = Path(__file__).parents[3]


@pytest.fixture
def browser(url: str) -> Iterator[httpx.Client]:
    """A browser without scripts."""
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def rows(html: str, table: str = "networks") -> list[str]:
    """The words of each row of a table."""
    found = re.search(rf'<table class="{table}( cards)?">.*?</table>', html, re.DOTALL)
    assert found is not None
    return [re.sub(r"\s+", " ", text(row)).strip() for row in re.findall(r"<tr.*?</tr>", found[0], re.DOTALL)][1:]


def test_the_page_shows_what_the_networks_see_once_workers_have_looked(
    app: FastAPI, browser: httpx.Client, seeds: dict[str, str]
) -> None:
    page, address = f"/searches/{seeds['succeeded']}", f"/searches/{seeds['succeeded']}/contact-sheet.png"
    html = browser.get(page).text
    assert f'src="{address}"' in html and "Decoding" in html
    picture = browser.get(address)
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    assert "default-src 'none'" in picture.headers["content-security-policy"]
    waiting = seeds["queued"]
    assert "contact-sheet" not in browser.get(f"/searches/{waiting}").text
    assert browser.get(f"/searches/{waiting}/contact-sheet.png").status_code == 404
    seeding.parts(app).runs.write(seeds["succeeded"], CONTACT_SHEET, b"<script>")
    assert browser.get(address).status_code == 404, "what is no picture is not given out"


def test_what_was_measured_can_be_taken_to_tensorboard(browser: httpx.Client, seeds: dict[str, str]) -> None:
    link = f"/api/v1/searches/{seeds['succeeded']}/tensorboard"
    assert f'href="{link}"' in browser.get(f"/searches/{seeds['succeeded']}").text
    answer = browser.get(link)
    assert answer.headers["content-type"] == "application/zip" and f"{seeds['succeeded']}-tensorboard.zip" in str(
        answer.headers["content-disposition"]
    )
    names = [f"networks/{budget}/{seeding.EVENT_FILE}" for budget in seeding.BUDGETS]
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == [*names, f"search/{seeding.EVENT_FILE}"]
    assert "/tensorboard" not in browser.get(f"/searches/{seeds['queued']}").text, "it has no measurements yet"
    assert "no measurements yet" in browser.get(f"/api/v1/searches/{seeds['queued']}/tensorboard").json()["detail"]


def test_a_search_that_runs_tells_how_long_ago_it_was_heard_of(app: FastAPI, browser: httpx.Client) -> None:
    search_id = seeding.queue(app)
    assert browser.get(f"/api/v1/searches/{search_id}").json()["heard_at"] is None
    run = seeding.Run(app, search_id).start()
    with writing(seeding.parts(app).searches.engine) as session:
        session.execute(update(Search).values(heard_at=Search.heard_at - 3600))
    assert "last update 1 h ago" in text(browser.get(f"/searches/{search_id}").text)
    assert browser.get(f"/api/v1/searches/{search_id}").json()["stalled_for"] is None, "a first epoch may take an hour"
    run.pretrain()
    told = browser.get(f"/api/v1/searches/{search_id}").json()
    assert told["heard_at"] >= told["started_at"]
    assert "last update 1 h" not in text(browser.get(f"/searches/{search_id}").text)
    run.move(Status.FAILED, error={"kind": "job", "message": "lost", "attempt": 1})
    assert "last update" not in text(browser.get(f"/searches/{search_id}").text), "it has ended"


def test_a_search_without_updates_is_shown_as_stalled_and_without_an_estimate(
    app: FastAPI, browser: httpx.Client, url: str
) -> None:
    sweep_id = seeding.sweep(app, budgets=["300k"], seeds=[0])
    search_id = seeding.parts(app).sweeps.searches(sweep_id, 1)[0].id
    run = seeding.Run(app, search_id).start().pretrain().search(18)
    engine = seeding.parts(app).searches.engine
    pages = ("/searches", f"/searches/{search_id}", f"/sweeps/{sweep_id}", "/sweeps")
    mark = seeding.parts(app).searches.mark_of(search_id)

    def hear(seconds_ago: float) -> dict[str, Any]:
        now = time.time()
        with writing(engine) as session:
            session.execute(update(Search).values(started_at=now - 4000, heard_at=now - seconds_ago))
        told: dict[str, Any] = browser.get(f"/api/v1/searches/{search_id}").json()
        return told

    told = hear(1700)
    assert told["stalled_for"] is None and told["seconds_left"] > 0, "it had run for longer before"
    assert all("stalled" not in text(browser.get(page).text) for page in pages)
    told = hear(2400)
    assert told["status"] == "running" and 2400 <= told["stalled_for"] < 2700 and told["seconds_left"] is None
    for page in pages:
        html = browser.get(page).text
        assert 'class="chip stalled"' in html, page
        assert not re.search(r"about [^<]* left", html), page
        assert "/sweeps" not in page or "1 stalled" in text(html), page
    known = browser.get(f"/api/v1/sweeps/{sweep_id}").json()
    assert (known["stalled"], known["seconds_left"]) == (1, None)
    assert "1 running; 1 stalled" in Text.from_markup(terminal.sweep_line(known)).plain
    html = browser.get(pages[1]).text
    assert "the workers report every epoch, and the last update is 40 min" in text(html)
    assert "What to do:" in text(html) and f'href="/searches/{search_id}/logs/1"' in html
    assert seeding.parts(app).searches.mark_of(search_id) == mark._replace(stalled=True), "open pages learn of it"
    asked = (["list"], ["show", search_id])
    listed, shown = (CliRunner().invoke(commands, [*words, "--url", url]).output for words in asked)
    assert "stalled" in listed and "stalled: no update for 40\N{NO-BREAK SPACE}min" in shown
    run.move(Status.FAILED, error={"kind": "job", "message": "lost", "attempt": 1})
    assert browser.get(f"/api/v1/searches/{search_id}").json()["stalled_for"] is None, "it has ended"


def test_finals_show_a_network_for_each_trial(app: FastAPI, browser: httpx.Client) -> None:
    finals = seeding.seed_finals(app)
    search = seeding.parts(app).searches.get(finals)
    sources = [one["id"] for one in search.spec["finals"]["of"]]
    html = browser.get(f"/searches/{finals}").text
    told = rows(html)
    assert len(told) == 8
    assert told[0].startswith(f"300,000 seed 0 {sources[0]} 29") and "97.20 %" in told[0]
    assert told[1].startswith(f"300,000 seed 1 {sources[1]} stopped after epoch 7, 88.8 % on validation data")
    assert all("training" in row for row in told[2:7]), "these are at work"
    assert told[7].startswith("600,000 random, seed 1 to come")
    assert "began to retrain the network for 300,000, random, seed 0" in text(html)
    assert "retrain of 8 networks began" in text(html)
    assert "stopped the network for 300,000, seed 1 after epoch 7: 88.8 % on validation data" in text(html)
    assert re.findall(r'<tr id="network-([^"]*)"', html) == [
        f"{budget}-{trial}" for trial, budget in enumerate([300_000] * 4 + [600_000] * 4)
    ]
    steps = re.findall(r'<span class="label">(\w+)</span>', html)
    assert steps == ["Queue", "Start", "Retrain"]
    assert 'data-kind="finals"' in html and 'id="snapshots"' not in html and 'data-chart="l1_weight"' not in html
    assert "As a curl command" not in html, "finals cannot be asked for like a search"
    assert browser.get(f"/fragments/searches/{finals}").status_code == 200
    assert "retrained in the finals of the sweep" in text(browser.get(f"/searches/{sources[0]}").text)
    assert f'href="/searches/{finals}">finals' in browser.get(f"/searches/{sources[0]}").text


def test_a_search_tells_which_networks_compete_and_which_of_them_is_the_best(
    app: FastAPI, browser: httpx.Client
) -> None:
    search_id = seeding.queue(app, budgets=[300_000], finals={"baselines": ["resnet", "mobilenetv3"]})
    run = seeding.Run(app, search_id).start().pretrain().search().find(300_000)
    assert rows(browser.get(f"/searches/{search_id}").text)[0].startswith("300,000 29"), "nobody competes yet"
    run.tell({"kind": "phase", "phase": "retrain", "budget": 300_000})
    origins = ("search", "resnet", "mobilenetv3")
    own = [{"trial": n, "origin": origin, "budget": 300_000, "seed": 0} for n, origin in enumerate(origins)]
    for one in own:
        run.tell({"kind": "began"} | one, seeding.epoch("retrain", 1, 60, 0.5, 300_000) | one)
    run.tell({"kind": "stopped", "epoch": 15, "accuracy": 0.7} | own[2])
    told = rows(browser.get(f"/searches/{search_id}").text)
    assert [row.partition(" ")[2].split(" ")[0] for row in told] == ["searched", "resnet", "mobilenetv3"]
    assert "training" in told[1] and "stopped after epoch 15, 70.0 % on validation data" in told[2]

    words = {1: "0.9 points above the best searched network", 0: "0.9 points below the best hand-made network"}
    results = []
    for trial, name in ((1, "300000"), (0, "300000-0")):
        for kind, file in FILES.items():
            content = seeding.network(300_000).to_json() if kind == "architecture" else kind
            run.write(name, file, content.encode())
        run.write(name, FILES["evaluation"], json.dumps(seeding.tested().to_dict()).encode())
        more = {"path": f"architectures/{name}", "name": name, "winner": trial == 1, "comparison": words[trial]}
        variant = {"variant": "resnet8"} if trial else {}
        results.append(seeding.result(300_000) | own[trial] | variant | more | {"files": FILES})
        run.tell({"kind": "retrained"} | seeding.result(300_000) | own[trial] | variant | {"path": more["path"]})
    asked = Asked((300_000,), competing=True)
    told_of = folder_model.result("result.json", {"architectures": results}, asked)
    run.move(Status.FINISHING).work.succeed(run.id, run.token, told_of)
    html = browser.get(f"/searches/{search_id}").text
    headline = "The best network for 300,000 is a hand-made one: resnet8, 0.9 points above the best searched network."
    assert headline in text(html)
    assert [row.partition(" ")[2].split(" 29")[0] for row in rows(html)][:2] == ["resnet8 winner", "searched"]
    for link in set(re.findall(r'(?:href|src)="(/[^"#]*/(?:networks|architectures)/[^"#]*)"', html)):
        assert browser.get(link).status_code == 200, link
    view = browser.get(f"/api/v1/searches/{search_id}").json()
    assert [(one["origin"], one["variant"], one["winner"]) for one in view["architectures"]] == [
        ("resnet", "resnet8", True), ("search", None, False),
    ]  # fmt: skip
    with pytest.raises(BadFolder, match="trial"):
        folder_model.result("result.json", {"architectures": results}, Asked((300_000,)))


def test_finals_that_are_interrupted_do_not_say_that_they_train(app: FastAPI, browser: httpx.Client) -> None:
    finals = seeding.seed_finals(app)
    work, service = Work(seeding.parts(app).searches.engine), seeding.parts(app)

    def told() -> list[str]:
        found = rows(browser.get(f"/searches/{finals}").text)[2:]
        return [re.sub(r".* (none|to come|training|interrupted) –", r"\1", row) for row in found]

    work.move(finals, service.searches.get(finals).lease_token or "", Status.QUEUED, not_before=0.0)
    assert told() == ["interrupted"] * 5 + ["to come"]
    run = seeding.Run(app, finals).start()
    assert told() == ["interrupted"] * 5 + ["to come"], "it runs again, and these wait for their turn"
    own = {"origin": "search", "attempt": 2}
    run.tell({"kind": "began", "trial": 4, "budget": 600_000, "seed": 0} | own)
    assert told() == ["interrupted"] * 2 + ["training"] + ["interrupted"] * 2 + ["to come"]
    run.move(Status.FAILED, error={"kind": "job", "message": "the node went away", "attempt": 2})
    assert told() == ["none"] * 6


def test_ended_finals_tell_the_winner_of_each_budget_and_sweeps_lead_to_each_network(
    app: FastAPI, browser: httpx.Client
) -> None:
    finals = seeding.seed_finals(app, ended=True)
    html = browser.get(f"/searches/{finals}").text
    assert [row.partition(" winner")[0] for row in rows(html) if "winner" in row] == [
        "300,000 seed 0", "600,000 seed 0",
    ]  # fmt: skip
    assert re.findall(r'data-picture="([^"]*)"', html) == [
        f"/searches/{finals}/networks/{name}.svg" for name in ("300000-0", "600000-4")
    ]
    anchors = set(re.findall(r'<tr id="(network-[^"]*)"', html))
    assert {"network-300000", "network-300000-2"} <= anchors and len(anchors) == 8
    sweep = browser.get(f"/sweeps/{seeding.parts(app).searches.get(finals).sweep_id}").text
    links = set(re.findall(rf'href="/searches/{finals}#(network-[^"]*)"', sweep))
    assert len(links) == 7 and links <= anchors
    compared = browser.get(f"/compare?id={finals}-300000&id={finals}-300000-2").text
    assert set(re.findall(rf'href="/searches/{finals}#(network-[^"]*)"', compared)) <= anchors
    for link in set(re.findall(r'(?:href|src)="(/(?:api|searches/)[^"#]*)"', html)):
        assert browser.get(link).status_code == 200, link


def test_finals_that_wait_show_that_there_is_nothing_yet(app: FastAPI, browser: httpx.Client) -> None:
    sweep_id = seeding.sweep(app, finals=True, seeds=[0, 1])
    finals = seeding.parts(app).sweeps.searches(sweep_id, 10)[-1]
    html = browser.get(f"/searches/{finals.id}").text
    assert "appear here when they are retrained" in text(html) and "Not launched yet" in text(html)


def test_snapshots_can_be_chosen_and_their_pictures_never_change(app: FastAPI, browser: httpx.Client) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start().pretrain().search()
    html = browser.get(f"/searches/{search_id}").text
    complete = "2,114,880 multiply-adds"
    assert re.findall(r"<option value=\"(\d+)\" selected>", html) and complete in text(html)
    smaller = seeding.network(600_000)
    shown = {"multiply_adds": smaller.multiply_adds, "live_edges": smaller.live_edges}
    run.tell({"kind": "snapshot", "architecture": smaller.to_dict()} | shown)
    first, second = browser.get(f"/searches/{search_id}/snapshots").json()
    assert second == {"seq": second["seq"]} | shown
    assert browser.get(f"/searches/{search_id}/snapshots?after={first['seq']}").json() == [second]
    for chosen, query in ((second, ""), (first, f"?snapshot={first['seq']}"), (second, "?snapshot=1")):
        html = browser.get(f"/searches/{search_id}{query}").text
        assert f'src="/searches/{search_id}/snapshots/{chosen["seq"]}.svg"' in html
        assert f'<option value="{chosen["seq"]}" selected>' in html
    told = browser.get(f"/searches/{search_id}/snapshots/{first['seq']}.svg")
    assert "immutable" in told.headers["cache-control"] and "private" in told.headers["cache-control"]
    assert 'id="snapshots"' in browser.get(f"/searches/{seeding.queue(app)}").text


def test_a_network_is_told_piece_by_piece_and_the_pieces_make_the_whole(
    app: FastAPI, browser: httpx.Client, seeds: dict[str, str]
) -> None:
    path = f"/searches/{seeds['succeeded']}/networks/300000"
    assert f'href="{path}"' in browser.get(f"/searches/{seeds['succeeded']}").text
    html = browser.get(path).text
    told = rows(html, "dense costs")
    network = seeding.network(300_000)
    pieces = {row.split()[0]: int(row.split()[-5].replace(",", "")) for row in told}
    total = int(told[-1].split()[-5].replace(",", ""))
    assert total == network.multiply_adds and told[-1].split()[0] == "all"
    parts = [row for row in told[:-1] if re.match(r"(stem|block|reduction|head)", row)]
    assert len(parts) == 1 + 4 + 1 + 1
    assert sum(int(row.split()[-5].replace(",", "")) for row in parts) == total
    assert any(re.match(r"1\.\w+", name) for name in pieces) and "shortcut" in pieces
    assert browser.get(f"{path}.svg").text.startswith("<svg")
    for other in ("400000", "300000-1", "x", "../300000"):
        assert browser.get(f"/searches/{seeds['succeeded']}/networks/{other}").status_code in (404, 422), other


def test_a_finalist_is_shown_before_it_is_retrained_where_it_is_known(app: FastAPI, browser: httpx.Client) -> None:
    finals = seeding.seed_finals(app)
    assert browser.get(f"/searches/{finals}/networks/300000-1").status_code == 200, "what its search has found"
    for unknown in ("300000-2", "300000-9", "300000"):
        assert browser.get(f"/searches/{finals}/networks/{unknown}").status_code == 404, "what is yet to be drawn"
        assert browser.get(f"/searches/{finals}/networks/{unknown}.svg").status_code == 404
    genotype = Path(seeding.parts(app).runs.path(finals, "architectures/300000-0/architecture.json"))
    Architecture.from_json(genotype.read_text())
    genotype.write_text("{")
    assert browser.get(f"/searches/{finals}/networks/300000-0").status_code == 404


ERRORS = """\
Traceback (most recent call last):
  File "job.py", line 3, in run
OSError: the disk went away
"""
LOG = (
    """\
epoch 1
2026-11-25 13:08:57,001 INFO job.py:3 -- no ERRORS so far
[2026-11-25 13:08:58,001 I 12 13] all went well
2026-11-25 13:08:58,426 WARNING job.py:4 -- slow
and slower
"""
    + ERRORS
)


def test_attempts_are_told_with_their_logs(app: FastAPI, browser: httpx.Client) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    lost = {"kind": "job", "message": "the <node> went away", "attempt": 1}
    run.move(Status.QUEUED, not_before=0.0, error=lost, reason="tried again")
    seeding.Run(app, search_id).start()
    words = text(browser.get(f"/searches/{search_id}").text)
    assert "queued the &lt;node&gt; went away tests Log of attempt 1" in words
    assert re.search(r"2 \S+ \S+ UTC .* running tests Log of attempt 2", words)
    log = Path(seeding.parts(app).runs.path(search_id, "logs/driver-0001.log"))
    log.parent.mkdir(parents=True)
    log.write_bytes(b"one\nTwo <b>\nbad \xff byte\n")
    html = browser.get(f"/searches/{search_id}/logs/1").text
    assert "Two &lt;b&gt;" in html and "3 lines." in text(html) and "bad \N{REPLACEMENT CHARACTER} byte" in html
    assert 'hx-trigger="every' not in html, "it does not change any more"
    html = browser.get(f"/searches/{search_id}/logs/1", params={"q": "two"}).text
    assert "1 of 3 lines" in text(html) and "one\n" not in html and 'value="two"' in html
    assert 'href="/searches/' + search_id + '/logs/2?q=two"' in html
    log.write_text(LOG)
    for level, left in {"info": LOG, "warning": LOG[LOG.index("2026-11-25 13:08:58,4") :], "error": ERRORS}.items():
        html = browser.get(f"/searches/{search_id}/logs/1", params={"level": level}).text
        assert unescape(html[html.index('aria-label="Log">') + 17 : html.index("</pre>")]) + "\n" == left
        assert f'<option value="{level}" selected>' in html
        assert ("logs/2?level=" in html) == (level != "info")
    html = browser.get(f"/searches/{search_id}/logs/1?level=nonsense&q=went").text
    assert "2 of 8 lines" in text(html) and '<option value="info" selected>' in html
    assert "this process has no connection to Ray" in text(browser.get(f"/searches/{search_id}/logs/2").text)
    whole = "a line of forty characters, or nearly so\n" * (reading.MOST_READ // 30)
    log.write_text(whole)
    assert f'href="/searches/{search_id}/logs/1/download"' in browser.get(f"/searches/{search_id}/logs/1").text
    got = browser.get(f"/searches/{search_id}/logs/1/download")
    assert got.text == whole and f'filename="{search_id}-1.log"' in got.headers["content-disposition"]
    log.unlink()
    html = browser.get(f"/searches/{search_id}/logs/1").text
    assert "There is no log" in text(html) and "/download" not in html
    for missing in (f"{search_id}/logs/3", "nosuch/logs/1", f"{search_id}/logs/1/download", "nosuch/logs/1/download"):
        assert browser.get(f"/searches/{missing}").status_code == 404


def test_a_log_is_read_in_parts(app: FastAPI, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = seeding.queue(app)
    with Client(url) as client:
        with pytest.raises(ClientError, match="not been launched yet"):
            client.log(search_id)
        seeding.Run(app, search_id).move(Status.QUEUED, not_before=0.0)
        assert "There is no log" in str(client.log(search_id)["note"])
        content = "".join(f"line {number} é\n" for number in range(50))
        seeding.parts(app).runs.write(search_id, "logs/driver-0001.log", content.encode())
        assert client.log(search_id) == {
            "attempt": 1, "running": False, "begin": 0, "end": len(content.encode()), "text": content, "note": None,
        }  # fmt: skip
        monkeypatch.setattr(reading, "MOST_READ", 100)
        end = client.log(search_id, 1)
        assert end["begin"] == len(content.encode()) - 100 and content.endswith(end["text"])
        parts, after = [], 0
        while (part := client.log(search_id, 1, after))["text"]:
            assert part["text"].endswith("\n") and len(part["text"].encode()) <= 100, "lines are whole"
            parts.append(part["text"])
            after = part["end"]
        assert "".join(parts) == content
        assert client.log(search_id, 1, 10**9)["end"] == len(content.encode()), "a log that has become shorter"
        with pytest.raises(ClientError, match="attempts are 1 to 1"):
            client.log(search_id, 2)


def test_of_a_long_log_the_end_is_shown(app: FastAPI, browser: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    search_id = seeding.queue(app)
    seeding.Run(app, search_id).move(Status.QUEUED, not_before=0.0)
    log = Path(seeding.parts(app).runs.path(search_id, "logs/driver-0001.log"))
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    monkeypatch.setattr(reading, "MOST_READ", 100)
    monkeypatch.setattr(logs, "MOST_SHOWN", 3)
    html = browser.get(f"/searches/{search_id}/logs/1").text
    assert "line 4997\nline 4998\nline 4999" in html and "line 4996" not in html
    assert "the last 3 are shown" in text(html)


def test_a_log_is_read_from_ray_while_its_driver_runs(
    app: FastAPI, browser: httpx.Client, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id = seeding.queue(app)
    run = seeding.Run(app, search_id).start()
    context = seeding.parts(app)
    with ray_double() as ray:
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        settings = replace(context.settings, ray_address=ray.endpoint.url)
        dispatching = Dispatching(settings, context.searches, context.runs)
        app.state.context = replace(context, launches=dispatching)
        job = f"yoso-{search_id}-1"
        ray.jobs[job], ray.logs[job] = {"status": "RUNNING"}, "epoch 1\nepoch <2>\n"
        html = browser.get(f"/searches/{search_id}/logs/1").text
        assert (
            "epoch &lt;2&gt;" in html
            and "2 lines; the attempt is running." in text(html)
            and 'hx-trigger="every' in html
        )
        ray.drop_answers = True
        assert "Ray does not answer" in text(browser.get(f"/searches/{search_id}/logs/1").text)
        ray.drop_answers = False
        with Client(url) as client:
            assert client.log(search_id, after=8)["text"] == "epoch <2>\n"
        told = []

        def end(seconds: float) -> None:
            """The attempt ends and its log is kept, while somebody follows it."""
            told.append(seconds)
            if len(told) == 2:
                run.move(Status.QUEUED, not_before=0.0)
            if len(told) == 4:
                context.runs.write(search_id, "logs/driver-0001.log", b"epoch 1\nepoch <2>\nepoch 3\n")

        monkeypatch.setattr("time.sleep", end)
        shown = CliRunner().invoke(commands, ["logs", search_id, "-f", "--url", url])
        assert (shown.exit_code, shown.stdout) == (0, "epoch 1\nepoch <2>\nepoch 3\n"), shown.output
        monkeypatch.undo()
        dispatching.close()


ASKED: list[dict[str, Any]] = [
    {"dataset": "digits", "budgets": ["300k", 600000]},
    {
        "dataset": "digits", "budgets": ["300k"], "space": {"preset": "digits", "share": True}, "seed": 3,
        "settings": {"retrain_epochs": 5, "lr": 0.05, "form": "press", "flip": False}, "priority": -2,
        "workers": {"min": 1, "max": 2},
        "limits": {"parameters": "90k"}, "project": "vision", "name": "it's a \"name\" $HOME `x` -- <b>\\n\n--seed 9",
    },
    {
        "dataset": "digits", "budgets": ["300k"], "space": {"share": False, "blocks": [1, 1], "channels": 8},
        "priority": 1, "preempts": True,
    },
]  # fmt: skip


@pytest.mark.parametrize("request_", ASKED)
def test_what_is_copied_asks_for_the_same_again(
    app: FastAPI, browser: httpx.Client, url: str, request_: dict[str, Any]
) -> None:
    made = browser.post("/api/v1/searches", json=request_).json()
    html = browser.get(f"/searches/{made['id']}").text
    copied = {title: unescape(words) for title, words in re.findall(
        r'<pre tabindex="0" aria-label="(curl|Command line|Python)"[^>]*>(.*?)</pre>', html, re.DOTALL)}  # fmt: skip
    assert set(copied) == {"curl", "Python", "Command line"}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": "/nowhere"}
    for title, words in copied.items():
        command = [sys.executable, "-c", words] if title == "Python" else ["sh", "-c", words]
        if title == "Command line":  # with this code's own, whatever is installed
            command = ["sh", "-c", words.replace(" yoso submit", f" {sys.executable} -m service.cli submit", 1)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, (title, done.stderr, done.stdout)
    searches, _ = seeding.parts(app).searches.page(10)
    assert len(searches) == 1 + len(copied)
    assert all(one.spec == searches[-1].spec for one in searches)
    for field in ("name", "project", "priority", "preempts", "dataset"):
        assert len({getattr(one, field) for one in searches}) == 1, field


def test_with_tokens_the_copied_command_takes_it_from_the_environment(tmp_path: Path) -> None:
    token = "a-token-of-sixteen"
    app = seeding.make_app(tmp_path, tokens={token: "vision"}, data_roots=(str(tmp_path),))
    search_id = seeding.queue(app, project="vision")
    with (
        seeding.serving(app) as url,
        httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {token}"}) as http,
    ):
        html = http.get(f"/searches/{search_id}").text
        assert "Authorization: Bearer $YOSO_TOKEN" in unescape(html) and token not in html
        for path in (f"/searches/{search_id}/logs/1", f"/searches/{search_id}/snapshots"):
            assert httpx.get(url + path).headers["location"].startswith("/login"), path
    seeding.parts(app).searches.engine.dispose()


def test_what_failed_is_told_with_what_to_do_and_can_be_tried_again(
    app: FastAPI, browser: httpx.Client, seeds: dict[str, str]
) -> None:
    html = browser.get(f"/searches/{seeds['failed']}").text
    assert ADVICE["out_of_memory"] in unescape(text(html)) and f'href="/searches/{seeds["failed"]}/logs/1"' in html
    assert f'hx-post="/api/v1/searches/{seeds["failed"]}/retry"' in html
    like = re.search(r'href="(/submit\?[^"]*)"', html)
    assert like is not None and 'value="too large a batch"' in browser.get(unescape(like[1])).text
    assert "/retry" not in browser.get(f"/searches/{seeds['succeeded']}").text


def test_every_kind_of_error_that_is_written_has_its_advice() -> None:
    written = {NOT_STARTED, DEADLINE, NOT_WAITED, PREEMPTED}
    for file in (*(ROOT / "worker").glob("*.py"), *(ROOT / "service" / "dispatch").rglob("*.py")):
        code = file.read_text()
        written |= set(re.findall(r'"kind": "(\w+)", "message"', code))
        for kind in re.findall(r"(?:Failure\(|problem\(\w+, )((?:[^(,]|\([^)]*\))+),", code):
            written |= set(re.findall(r'"(\w+)"', kind))
    assert written - {"warning"} == set(ADVICE)
    assert all(re.fullmatch(r"[A-Z].*\.", words) for words in ADVICE.values())


def test_the_request_that_is_shown_is_one_that_the_api_takes(browser: httpx.Client, seeds: dict[str, str]) -> None:
    html = browser.get(f"/searches/{seeds['succeeded']}").text
    shown = re.search(r'aria-label="Request">(.*?)</pre>', html, re.DOTALL)
    assert shown is not None
    SearchRequest.model_validate(json.loads(unescape(shown[1])))
