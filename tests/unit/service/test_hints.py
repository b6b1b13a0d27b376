"""How open pages hear of what happens, and what it costs when many are open."""

import itertools
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.domain.lifecycle import Status
from service.store import changes
from service.store.database import writing
from service.store.searches import MarkOfProject, Searches
from tests import seeding


@contextmanager
def live(url: str, path: str) -> Iterator[Iterator[str]]:
    """The kinds of what a stream says, one after the other."""
    with httpx.stream("GET", url + path, timeout=60) as stream:
        assert stream.status_code == 200
        yield (line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: "))


def test_many_who_ask_for_the_same_at_once_have_it_rendered_once(
    app: FastAPI, url: str, seeds: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, page, all_there = itertools.count(), Searches.page, threading.Barrier(8)

    def counted(*arguments: object) -> object:
        next(asked)
        return page(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Searches, "page", counted)
    with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor(8) as threads:

        def rows(path: str) -> str:
            all_there.wait()
            return http.get(path).raise_for_status().text

        first = set(threads.map(rows, ["/fragments/searches"] * 8))
        assert len(first) == 1 and next(asked) == 1
        list(threads.map(rows, ["/fragments/searches", "/fragments/searches?status=failed"] * 4))
        assert next(asked) == 3, "the failed ones are another list, and the whole one is known"
        new = seeding.queue(app)
        assert new in http.get("/fragments/searches").text, "what is known is of before the event"


def test_a_project_is_not_shown_the_rows_of_another(app: FastAPI, tmp_path: Path) -> None:
    tokens = {"a-token-of-sixteen": "vision", "another-token-of-16": "audio"}
    guarded = seeding.make_app(tmp_path, seeding.parts(app).settings.database_url, tokens=tokens)
    ids = {project: seeding.queue(app, project=project) for project in ("vision", "audio")}
    with seeding.serving(guarded) as url, httpx.Client(base_url=url, timeout=60) as http:
        for token, project in tokens.items():
            rows = http.get("/fragments/searches", headers={"Authorization": f"Bearer {token}"}).text
            assert [name for name, search_id in ids.items() if search_id in rows] == [project]
    seeding.parts(guarded).searches.engine.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_event_that_comes_to_light_after_a_later_one_is_hinted_at(app: FastAPI, url: str) -> None:
    searches = seeding.parts(app).searches
    slow, quick = seeding.queue(app), seeding.queue(app)
    with live(url, "/live/searches") as hints:
        assert next(hints) == "change"
        with writing(searches.engine) as session:
            changes.note(session, slow, "warning", {"message": "has its number first"})
            session.flush()
            with writing(searches.engine) as other:
                changes.note(other, quick, "warning", {"message": "is there first"})
            assert next(hints) == "change"
        assert next(hints) == "change", "the number of the newest event is the same as before"


def test_a_project_hears_of_its_own_searches_and_neither_when_nor_how_much_happens_to_others(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 30
    monkeypatch.setattr("service.store.searches.LATE", late)
    tokens = {"a-token-of-sixteen": "vision", "another-token-of-16": "audio"}
    guarded = seeding.make_app(tmp_path, seeding.parts(app).settings.database_url, tokens=tokens)
    searches = seeding.parts(guarded).searches
    own, other = (seeding.queue(app, project=project) for project in tokens.values())
    newest = searches.events(own)[-1].seq
    mark = MarkOfProject(searches.engine, "vision", seconds=0)
    assert mark() == (newest, 0) and newest < searches.newest_seq()
    with writing(searches.engine) as session:
        for _ in range(late + 10):  # more than are looked at again
            changes.note(session, other, "warning", {"message": "of another's"})
    assert mark() == mark() == (newest, 0)
    sweep = seeding.sweep(app, project="vision", seeds=[0])
    searches.cancel(own)
    later = mark()
    assert later == (searches.events(own)[-1].seq, 2)
    searches.delete(own)
    assert mark()[1] > later[1], "what has gone is a change as well"
    gone = mark()
    with writing(searches.engine) as session:
        for _ in range(10 * late + 1):
            changes.note(session, other, "warning", {"message": "of another's"})
    assert mark() == (later[0] - 1, gone[1] + 1), "where nobody has asked for long, it is looked up anew"
    newest = later[0] - 1  # the event of the sweep's search
    with seeding.serving(guarded) as url, httpx.Client(base_url=url, timeout=60) as http:
        seeding.queue(app, project="audio")
        http.headers["Authorization"] = "Bearer a-token-of-sixteen"
        for path in ("/searches", "/sweeps", f"/sweeps/{sweep}", "/cluster"):
            assert re.findall(r"\?after=(\d+)", http.get(path).text) == [str(newest)], path
    searches.engine.dispose()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_event_of_a_project_that_comes_to_light_late_is_hinted_at(app: FastAPI) -> None:
    searches = seeding.parts(app).searches
    slow, quick = seeding.queue(app, project="vision"), seeding.queue(app, project="vision")
    mark = MarkOfProject(searches.engine, "vision", seconds=0)
    before = mark()
    with writing(searches.engine) as session:
        changes.note(session, slow, "warning", {"message": "has its number first"})
        session.flush()
        with writing(searches.engine) as other:
            changes.note(other, quick, "warning", {"message": "is there first"})
        between = mark()
    assert before < between < mark() and between[0] == mark()[0]


def test_why_a_search_waits_is_hinted_at_though_it_is_no_event(app: FastAPI, url: str) -> None:
    run = seeding.Run(app, seeding.queue(app))
    with live(url, f"/live/searches/{run.id}") as hints:
        assert next(hints) == "change"
        run.work.explain(run.id, run.token, "no node is free")
        assert next(hints) == "change"
        assert "no node is free" in httpx.get(f"{url}/fragments/searches/{run.id}").text


def test_pausing_a_sweep_is_seen_at_once_and_hinted_at(app: FastAPI, url: str) -> None:
    sweep_id = seeding.sweep(app, seeds=[0, 1])
    with httpx.Client(base_url=url, timeout=60) as http:
        assert ">Pause<" in http.get(f"/fragments/sweeps/{sweep_id}").text
        with live(url, f"/live/sweeps/{sweep_id}") as hints:
            assert next(hints) == "change"
            http.post(f"/api/v1/sweeps/{sweep_id}/pause").raise_for_status()
            assert ">Resume<" in http.get(f"/fragments/sweeps/{sweep_id}").text
            assert next(hints) == "change"
            http.post(f"/api/v1/sweeps/{sweep_id}/cancel").raise_for_status()
            assert list(hints) == ["change", "end"]
    assert {search.status for search in seeding.parts(app).sweeps.searches(sweep_id, 9)} == {Status.CANCELLED}
