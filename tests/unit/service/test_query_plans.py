"""With 100,000 searches every query that a page, a claim or a poll makes walks an index, on both databases.

The queries are caught as the code sends them; a new one without an index fails here.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from service.domain.lifecycle import Status
from service.domain.retention import Kept, Part
from service.domain.scheduling import Capacity
from service.store import changes
from service.store.audit import Action, Asked, Audit
from service.store.cluster import ClusterStore
from service.store.database import connect, migrate
from service.store.deadlines import end_overdue
from service.store.history import History
from service.store.models import Search
from service.store.news import News
from service.store.preemption import make_room
from service.store.projects import Projects
from service.store.searches import MarkOfProject, Searches, Wanted
from service.store.statistics import Statistics
from service.store.sweeps import Sweeps
from service.store.tokens import Tokens
from service.store.webhooks import WebhookStore
from service.store.work import Work
from tests.seeding import LARGE

ROWS = 100_000
KEPT = Kept(30.0, {"p3": 365.0, "p4": None})
SMALL = {"projects", "webhooks", "cluster", "counters", "CONSTANT"}
"""Tables that have few rows however many searches there are, and SQLite's word for no table."""

ALL_COUNTED = "SELECT searches.project, searches.status, count(*)"
"""Metrics count all searches once in some seconds: that reads an index or the table, whichever is smaller."""

FILL = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows) ",
    "postgresql": "WITH n AS (SELECT i FROM generate_series(1, :rows) AS i) ",
}
SEARCHES = """
INSERT INTO searches (id, project, sweep_id, name, dataset, request, spec, workers, cpus, gpus, accelerators, priority,
                      rank, supernet_multiply_adds, status, progress, attempt, last_attempt, not_before, journal_cursor,
                      created_at, ended_at, measured_at)
{fill} SELECT 's' || i, 'p' || (i % 20), 'w' || (i % 1000), 'n', 'digits', '{{}}', '{{}}', 1, 1, 0, 0.125, 0, i, 1,
       CASE WHEN i % 10 = 0 THEN 'queued' WHEN i <= 40 THEN 'running' WHEN i % 2 = 0 THEN 'succeeded' ELSE 'failed' END,
       0, 1, 3, 0, '', i, CASE WHEN i % 10 <> 0 AND i > 40 THEN 1e11 + i END, CASE WHEN i % 5000 <> 0 THEN i END FROM n
"""
OTHERS = (
    "INSERT INTO projects (name, weight, used, used_at) SELECT DISTINCT project, 1.0, 0.0, 0.0 FROM searches",
    "INSERT INTO sweeps (id, project, name, request, budgets, paused, created_at) "
    "SELECT 'w' || id, project, '', '{}', '{}', false, created_at FROM searches",
    "INSERT INTO events (search_id, time, kind, data) SELECT id, created_at, 'status', '{}' FROM searches",
    "INSERT INTO architectures (id, search_id, budget, result) SELECT id || '-1', id, 1, '{}' FROM searches",
    "INSERT INTO idempotency_keys (scope, key, request, fingerprint, created_at) "
    "SELECT '', id, 'POST', '', 1e11 + 100 * created_at FROM searches",
    "INSERT INTO tokens (name, digest, project, role, created_at) "
    "SELECT 't' || id, 'd' || substr(id, 2), project, 'read', created_at FROM searches",
    "INSERT INTO audit (time, by, action, project, about, data) SELECT created_at, 'by' || (cpus % 7), "
    "CASE WHEN status = 'queued' THEN 'cancelled' ELSE 'submitted' END, project, 'search/' || id, '{}' FROM searches",
    "INSERT INTO webhooks (id, project, url, events, secret, created_at, leased_until) "
    "SELECT 'w' || substr(name, 2), name, '', '{}', '', 0, 0 FROM projects",
    "INSERT INTO deliveries (id, webhook_id, kind, document, created_at, due_at, attempts) SELECT 'm' || id, "
    "'w' || substr(project, 2), 'test', '{}', created_at, CASE WHEN status = 'running' THEN 1 END, '{}' FROM searches",
    "INSERT INTO attempts (search_id, number, owner, started_at, ended_at) SELECT id, 1, 'o', created_at, "
    "CASE WHEN status = 'running' THEN NULL ELSE created_at + 60 END FROM searches WHERE status <> 'queued'",
)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with `ROWS` searches of twenty projects, a tenth of them queued and 36 running."""
    made = connect(database_url)
    migrate(made)
    with made.execution_options(writes=True).connect() as connection, connection.begin():
        # Text that is inserted as JSON, as the drivers would.
        insert = SEARCHES.format(fill=FILL[made.dialect.name])
        if made.dialect.name == "postgresql":
            # PostgreSQL wants the WITH before the INSERT's SELECT, and its rows of one kind each.
            insert = insert.replace("'{}', '{}'", "'{}'::json, '{}'::json")
        connection.execute(text(insert), {"rows": ROWS})
        for other in OTHERS:
            connection.execute(text(other.replace("'{}'", "'{}'::json") if _is_postgres(made) else other))
        connection.execute(text("UPDATE searches SET preempts = true, priority = 5 WHERE id = 's10'"))
        if _is_postgres(made):  # which does so by itself; SQLite only when told to, and nobody tells it
            connection.execute(text("ANALYZE"))
    yield made
    made.dispose()


def _is_postgres(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"


def sent(engine: Engine, do: Callable[[], object]) -> list[tuple[str, Any]]:
    """The statements that `do` sends, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        statements.append((statement, parameters[0] if isinstance(parameters, list) else parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        do()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    return [one for one in statements if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)", one[0])]


def scans(engine: Engine, statement: str, parameters: Any) -> list[str]:
    """The large tables that a statement reads from end to end, by the database's own plan."""
    explain = "EXPLAIN " if _is_postgres(engine) else "EXPLAIN QUERY PLAN "
    with engine.connect() as connection:
        rows = [str(row[-1]) for row in connection.exec_driver_sql(explain + statement, parameters)]
    found = []
    for row in rows:
        match = re.search(r"Seq Scan on (\w+)", row) or re.match(r"SCAN (\w+)\b(?! USING)", row)
        if match and match[1] not in SMALL and not match[1].startswith("anon"):
            found.append(f"{match[1]}: {row.strip()}")
    return found


def read_again(engine: Engine) -> None:
    """Read the statistics as a process does that has read them a moment ago; the first time it reads all attempts."""
    read = Statistics(engine, ClusterStore(engine))
    with Session(engine) as session:
        read._until = changes.time_of(session) - 15.0
    read.read()


USERS: dict[str, Callable[[Engine], object]] = {
    "first page": lambda engine: Searches(engine).page(50),
    "later page": lambda engine: Searches(engine).page(50, (500.0, "s500")),
    "page of a state": lambda engine: Searches(engine).page(50, None, Wanted(Status.FAILED)),
    "page of a rare state": lambda engine: Searches(engine).page(50, (5000.0, "s5"), Wanted(Status.RUNNING)),
    "page of a project": lambda engine: Searches(engine).page(50, None, Wanted(None, "p3")),
    "page of both": lambda engine: Searches(engine).page(50, (5000.0, "s5"), Wanted(Status.QUEUED, "p10")),
    "page of a kind": lambda engine: Searches(engine).page(50, None, Wanted(None, None, "finals")),
    "page of all": lambda engine: Searches(engine).page(50, (5e4, "s5"), Wanted(Status.FAILED, "p3", "search")),
    "words": lambda engine: Searches(engine).page(50, None, Wanted(words="x")),
    "words in a state": lambda engine: Searches(engine).page(50, (5e4, "s5"), Wanted(Status.RUNNING, words="x")),
    "words in a project": lambda engine: Searches(engine).page(50, None, Wanted(None, "p3", words="x")),
    "words in finals": lambda engine: Searches(engine).page(50, None, Wanted(None, None, "finals", "x")),
    "page by accuracy": lambda engine: Searches(engine).page(50, (0.5, "s5"), Wanted(order="accuracy")),
    "oldest of a project": lambda engine: Searches(engine).page(50, (5e4, "s5"), Wanted(None, "p3", order="oldest")),
    "tag": lambda engine: Searches(engine).page(50, None, Wanted(tag="x")),
    "tag by accuracy": lambda engine: Searches(engine).page(50, None, Wanted(tag="x", order="accuracy")),
    "one search": lambda engine: Searches(engine).get("s77"),
    "events": lambda engine: Searches(engine).events("s77", 5),
    "events of a kind": lambda engine: Searches(engine).events("s77", 5, "epoch"),
    "events of kinds": lambda engine: Searches(engine).events_of("s77", ("status", "warning")),
    "snapshots": lambda engine: Searches(engine).snapshots("s77", 5),
    "newest event": lambda engine: Searches(engine).newest_seq("s77"),
    "newest of all": lambda engine: Searches(engine).newest_seq(),
    "newest of a project": lambda engine: Searches(engine).newest_seq(project="p3"),
    "marks of a project": lambda engine: [mark() for mark in [MarkOfProject(engine, "p3", 0)] for _ in "ab"],
    "marks": lambda engine: (Searches(engine).mark(), Searches(engine).mark_of("s77")),
    "networks": lambda engine: Searches(engine).architectures(["s1", "s2"]),
    "attempts": lambda engine: Searches(engine).attempts("s77"),
    "place": lambda engine: Searches(engine).ahead(Search(project="p10", rank=50.0, id="s50")),
    "sweeps": lambda engine: Sweeps(engine).page(50, (500.0, "s"), None),
    "sweeps of a project": lambda engine: Sweeps(engine).page(50, None, "p3"),
    "sweeps with a tag": lambda engine: Sweeps(engine).page(50, None, None, "x"),
    "sweeps by name": lambda engine: Sweeps(engine).page(50, None, None, None, "night"),
    "tags of sweeps": lambda engine: Sweeps(engine).tags(["w7", "w8"]),
    "stalled searches of sweeps": lambda engine: Sweeps(engine).stalled(["w7", "w8"]),
    "searches of a sweep": lambda engine: Sweeps(engine).searches("w7", 100, (5.0, "s5")),
    "networks of a sweep": lambda engine: Sweeps(engine).networks("w7", "multiply_adds"),
    "how far a sweep is": lambda engine: Sweeps(engine).progress(["w7"]),
    "projects": lambda engine: Projects(engine).standings(),
    "queue": lambda engine: Projects(engine).queue(LARGE, 100),
    "metrics": lambda engine: read_again(engine),
    "audit": lambda engine: Audit(engine).page(50, None, Asked()),
    "later audit": lambda engine: Audit(engine).page(50, (500.0, 5), Asked(since=100.0)),
    "audit of a project": lambda engine: Audit(engine).page(50, (5000.0, 5), Asked("p3", "by3")),
    "audit of one": lambda engine: Audit(engine).page(50, None, Asked(about="search/s77")),
    "audit of an action": lambda engine: Audit(engine).page(50, None, Asked(action=Action.DELETED)),
    "webhooks": lambda engine: WebhookStore(engine).page(50, "w5"),
    "webhooks of a project": lambda engine: WebhookStore(engine).page(50, "w5", "p3"),
    "deliveries": lambda engine: WebhookStore(engine).deliveries("w7", None, 50, (5000.0, "m5")),
    "a token": lambda engine: Tokens(engine).grant_of("d77"),
    "tokens": lambda engine: Tokens(engine).page(50, "t5"),
    "how long searches took": lambda engine: History(engine).searches(),
    "tokens of a project": lambda engine: Tokens(engine).page(50, "t5", "p3"),
}
DISPATCHERS: dict[str, Callable[[Engine], object]] = {
    "claim": lambda engine: Work(engine).claim("o", LARGE),
    "renew": lambda engine: Work(engine).renew(["a", "b"]),
    "current attempts": lambda engine: Work(engine).current_attempts(["s1", "s2"]),
    "deadlines": lambda engine: end_overdue(engine, LARGE, None),
    "room": lambda engine: make_room(engine, Capacity(40, 0)),
    "hand back": lambda engine: Work(engine).hand_back(["a", "b"]),
    "old keys": lambda engine: Work(engine).forget_old_keys(),
    "old audit": lambda engine: Work(engine).forget_old_audit(30.0, 100),
    "old deliveries": lambda engine: WebhookStore(engine).forget_old(30.0, 100),
    "messages": lambda engine: [WebhookStore(engine).note(one, []) for one in WebhookStore(engine).claim(4)],
    "old searches": lambda engine: Work(engine).old(KEPT, (5.0, "s5"), 20),
    "old parts": lambda engine: [Work(engine).prune(part, KEPT) for part in Part],
    "sizes": lambda engine: Work(engine).unmeasured(20),
    "news": lambda engine: (News(engine, "n", 1).seen(), News(engine, "n", 1).between(ROWS - 500, ROWS)),
    "many news": lambda engine: News(engine, "n", 1).between(100, 10_100),
}


def test_every_query_walks_an_index(engine: Engine) -> None:
    assert scans(engine, "SELECT id FROM searches WHERE name = 'x'", ()) != [], "one without an index is found"
    found = {}
    for name, do in (USERS | DISPATCHERS).items():
        for statement, parameters in sent(engine, partial(do, engine)):
            if statement.startswith(ALL_COUNTED) and "GROUP BY" in statement:
                continue
            if slow := scans(engine, statement, parameters):
                found[f"{name}: {statement}"] = slow
    assert found == {}
