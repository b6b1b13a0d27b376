"""What searches leave behind is removed by age, by kind and by project; results stay, and who dies loses nothing."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update

from nas_core.errors import InvalidValue
from nas_core.storage import StorageUnavailable
from service.domain.retention import Kept, Part, Retention
from service.settings import Settings
from service.store.database import reading, writing
from service.store.models import AuditEntry
from tests import seeding
from tests.unit.service.test_dispatcher import Service

pytestmark = pytest.mark.usefixtures("at_once")

CHECKPOINTS = ("attempts/0001/train/3/job.pt", "attempts/0001/tune/trials.json", "train/1/job.pt")
EVENTS = ("journal/0001-000001.jsonl", "tensorboard/search/events.out.tfevents.0001-000001")
LOGS = ("logs/driver-0001.log",)
RESULTS = (
    "attempts/0001/spec.json",
    "attempts/0001/result.json",
    "attempts/0001/candidates/300000.safetensors",
    "attempts/0001/dataset/manifest.jsonl.gz",
    f"architectures/{seeding.BUDGETS[0]}/weights.safetensors",
)
FILES = {Part.CHECKPOINTS: CHECKPOINTS, Part.EVENTS: EVENTS, Part.LOGS: LOGS}


def ended(service: Service, days: float, **fields: str) -> str:
    """A search that has succeeded so many days ago, with all that it leaves behind; its id."""
    search_id = service.queue(**fields)
    seeding.Run(service.app, search_id, only=True).succeed()
    fill(service, search_id, days)
    return search_id


def fill(service: Service, search_id: str, days: float) -> None:
    for name in (*CHECKPOINTS, *EVENTS, *LOGS, *RESULTS):
        path = service.folder(search_id) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    then = service.searches.get(search_id).ended_at
    assert then is not None
    service.set(search_id, ended_at=then - days * 86400)


def there(service: Service, search_id: str, names: tuple[str, ...]) -> bool:
    """Whether all of the files are there, or none."""
    found = {(service.folder(search_id) / name).exists() for name in names}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("part", Part)
def test_a_part_is_removed_by_age_and_the_rest_stays(app: FastAPI, service: Service, part: Part) -> None:
    old, new, others = ended(service, 10), ended(service, 1), ended(service, 10, project="vision")
    before = {kind: len(service.searches.events(old, kind=kind)) for kind in ("epoch", "status", "snapshot")}
    assert min(before.values()) > 0
    dispatcher = service.dispatcher()
    dispatcher.turn()
    assert all(there(service, old, names) for names in FILES.values()), "all is kept unless it is asked for"
    size = service.searches.get(old).stored
    dispatcher.retention = Retention(parts={part: Kept(5.0, {"vision": 30.0})})
    dispatcher.turn()
    assert {one: there(service, old, names) for one, names in FILES.items()} == {one: one != part for one in Part}
    assert there(service, old, RESULTS) and len(service.searches.architectures([old])[old]) == 2
    for search_id in (new, others):
        assert all(there(service, search_id, names) for names in FILES.values())
        assert len(service.searches.events(search_id, kind="epoch")) == before["epoch"]
    told = {kind: len(service.searches.events(old, kind=kind)) for kind in before}
    assert told == before | ({"epoch": 0} if part == Part.EVENTS else {})
    gone = 1000 * len(FILES[part]) + (len(f"networks/{seeding.BUDGETS[0]}") * 2 if part == Part.EVENTS else 0)
    assert size - service.searches.get(old).stored == gone
    with seeding.serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        assert http.get(f"/api/v1/searches/{old}").json()["pruned"] == part.words
        assert f"{part.words[0]} removed by age" in http.get(f"/searches/{old}").text
        log = http.get(f"/api/v1/searches/{old}/log").json()
        assert (log["note"] or "").startswith("It was removed") == (part == Part.LOGS)
        events = http.get(f"/api/v1/searches/{old}/tensorboard")
        assert (events.status_code == 404 and "removed" in events.text) == (part == Part.EVENTS)


def test_of_a_sweep_the_journal_stays_which_finals_of_more_budgets_look_into(service: Service) -> None:
    sweep_id = seeding.sweep(service.app, seeds=[0], finals=False)
    [search] = seeding.parts(service.app).sweeps.searches(sweep_id, 2)
    seeding.Run(service.app, search.id).succeed()
    fill(service, search.id, 10)
    dispatcher = service.dispatcher()
    dispatcher.retention = Retention(parts={Part.EVENTS: Kept(5.0)})
    dispatcher.turn()
    assert there(service, search.id, EVENTS[:1]) and not there(service, search.id, EVENTS[1:])


def test_what_cannot_be_removed_now_is_removed_later_and_by_whoever_comes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_id, dispatcher = ended(service, 10), service.dispatcher()
    dispatcher.retention = Retention(parts={Part.CHECKPOINTS: Kept(5.0), Part.LOGS: Kept(5.0)})

    def away(name: str) -> None:
        raise StorageUnavailable(5, "the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(dispatcher.runs.files, "remove", away)
        dispatcher.turn()
        assert there(service, search_id, CHECKPOINTS) and service.searches.get(search_id).measured_at is None
    service.dispatcher("another").turn()
    assert not there(service, search_id, CHECKPOINTS) and not there(service, search_id, LOGS)
    assert service.searches.get(search_id).measured_at is not None


def test_what_is_tried_again_keeps_what_it_leaves_until_that_is_old_too(service: Service) -> None:
    search_id, dispatcher = service.queue(), service.dispatcher()
    dispatcher.turn()
    service.searches.cancel(search_id)
    service.ray.end(search_id, "STOPPED")
    dispatcher.turn()
    fill(service, search_id, 10)
    dispatcher.retention = Retention(parts={Part.CHECKPOINTS: Kept(5.0)})
    dispatcher.turn()
    assert not there(service, search_id, CHECKPOINTS)
    service.searches.retry(search_id)
    dispatcher.turn()
    path = service.folder(search_id) / "attempts/0002/train/1/job.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"state")
    service.searches.cancel(search_id)
    service.ray.end(search_id, "STOPPED", 2)
    dispatcher.turn()
    assert service.status(search_id) == "cancelled" and service.searches.get(search_id).pruned == 0
    dispatcher.turn()
    assert path.exists()
    fill(service, search_id, 10)
    dispatcher.turn()
    assert not path.exists()


def test_whole_searches_are_kept_by_project(service: Service) -> None:
    ids = {name: ended(service, 10, project=name) for name in ("default", "vision", "audio")}
    dispatcher = service.dispatcher()
    dispatcher.retention = Retention(Kept.parse("YOSO_KEEP_DAYS", "5, vision=30 audio=forever"))
    dispatcher.turn()
    assert {one.project for one in service.searches.page(10)[0]} == {"vision", "audio"}
    assert not service.folder(ids["default"]).exists()
    dispatcher.retention = Retention(Kept.parse("YOSO_KEEP_DAYS", "vision=5"))
    dispatcher.turn()
    assert {one.project for one in service.searches.page(10)[0]} == {"audio"}


def test_the_audit_log_is_kept_for_a_year_unless_told_otherwise(service: Service) -> None:
    engine = service.searches.engine
    ids = [service.queue() for _ in range(3)]

    def about() -> set[str]:
        with reading(engine) as session:
            return {f"{one}"[-12:] for one in session.scalars(select(AuditEntry.about))}

    for search_id, days in zip(ids, (400, 100, 1), strict=True):
        with writing(engine) as session:
            mine = update(AuditEntry).where(AuditEntry.about == f"search/{search_id}")
            session.execute(mine.values(time=AuditEntry.time - days * 86400))
    for audit_days, kept in ((None, ids), (365.0, ids[1:]), (30.0, ids[2:])):
        dispatcher = service.dispatcher(f"{audit_days}")
        dispatcher.retention = Retention(audit_days=audit_days)
        dispatcher.turn()
        assert about() == {*kept}
    found = Settings.from_environment({"YOSO_DATABASE_URL": "sqlite:///x.db"}).retention
    assert found.audit_days == 365.0 and all(kept.forever for kept in (found.searches, *found.parts.values()))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("YOSO_KEEP_DAYS", "0", "'0' is not a time"),
        ("YOSO_KEEP_EVENTS_DAYS", "soon", "'soon' is not a time"),
        ("YOSO_KEEP_LOGS_DAYS", "3,vision=-1", "'-1' is not a time"),
        ("YOSO_KEEP_LOGS_DAYS", "nan", "'nan' is not a time"),
        ("YOSO_KEEP_CHECKPOINTS_DAYS", "3,vision=1,vision=2", "'vision=2' names no project"),
        ("YOSO_KEEP_CHECKPOINTS_DAYS", "../x=3", "'../x=3' names no project"),
        ("YOSO_KEEP_AUDIT_DAYS", "365,vision=30", "is for all projects"),
    ],
)
def test_a_time_that_is_none_is_refused(name: str, value: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=name) as caught:
        Settings.from_environment({"YOSO_DATABASE_URL": f"sqlite:///{tmp_path}/x.db", name: value})
    assert told in str(caught.value) and "forever" in str(caught.value)
