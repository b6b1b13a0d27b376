"""`make bench-year`: a year of a team's searches in an hour: what becomes of pages, claims and the database's size?

Week by week as many searches as a fifty-second part of `--searches` are put into a PostgreSQL as if they had run then,
each with its attempts, networks and some hundred events, and what is due by then is removed as a dispatcher does it.
Every thirteenth week the slowest pages and the claim are timed, and the tables are weighed. Folders are not part of it.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Connection, Engine, text

from benchmarks.client import timed
from benchmarks.service import PROJECTS, Bench, copy, machine, seeded, summary, watched
from service.client import Bearer
from service.domain.lifecycle import Status
from service.domain.retention import Kept, Part
from service.domain.scheduling import Capacity, Node
from service.store.database import connect
from service.store.models import ArchitectureRow, Attempt, Event, Search
from service.store.work import Work

WEEKS, WEEK_DAYS, DAY = 52, 7, 86400.0
KEPT = {Part.CHECKPOINTS: 14, Part.EVENTS: 30, Part.LOGS: 90}
"""Days; results and their provenance are kept."""
SHARES = {"succeeded": 0.7, "failed": 0.2, "cancelled": 0.1}
QUEUED = 200
PAGES = {
    "first page": "/searches",
    "failed ones": "/searches?status=failed",
    "succeeded ones of a project": "/api/v1/searches?status=succeeded&project=p3",
    "one search": "/searches/{}",
    "cluster and queue": "/api/v1/cluster",
}
TIMES = 60


def main() -> None:
    """Play the year and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=100_000, help="in the whole year")
    parser.add_argument("--results", type=Path, default=Path("docs/benchmarks"), help="where measurements are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="yoso-year-") as folder, watched() as watch:
        begin = time.monotonic()
        found = play(Bench(Path(folder), watch, 0), options.searches)
    kept = {"machine": machine(), "searches": options.searches, "seconds": round(time.monotonic() - begin)}
    (options.results / "year.json").write_text(json.dumps(kept | {"weeks": found}, indent=1) + "\n")
    print(report(found))


def play(bench: Bench, searches: int) -> list[dict[str, Any]]:
    """Live through the year; what was measured in its first week and every thirteenth."""
    found = []
    with bench.postgres("yoso") as (url,):
        engine = connect(url)
        ids, now = seeded(engine, bench.folder), time.time()
        with engine.begin() as connection:
            put(connection, "queued", ids["queued"], "q", QUEUED, now, 0.0)
        step = bench.watch("weeks", WEEKS)
        for week in range(1, WEEKS + 1):
            begin = time.monotonic()
            ago = (WEEKS - week + 1) * WEEK_DAYS * DAY
            with engine.begin() as connection:
                for status, share in SHARES.items():
                    count = round(share * searches / WEEKS)
                    put(
                        connection,
                        status,
                        ids[status],
                        f"{status[0]}{week}-",
                        count,
                        now - ago,
                        WEEK_DAYS * DAY / count,
                    )
            filled = time.monotonic()
            removed = remove(engine, (WEEKS - week) * WEEK_DAYS)
            # As PostgreSQL does by itself, in time.
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE"))
            if week == 1 or week % 13 == 0:
                told = {"week": week, "filled": filled - begin, "removed": removed}
                found.append(
                    told | {"removing": time.monotonic() - filled} | measure(bench, engine, url, ids["succeeded"])
                )
            step()
        engine.dispose()
    return found


def put(
    connection: Connection, status: str, search_id: str, prefix: str, count: int, begin: float, apart: float
) -> None:
    """Copy a search `count` times as if the copies had been submitted so many seconds `apart` from `begin` on."""
    key = f"'{prefix}' || i"
    created = f"{begin} + i * {apart}"
    new = {"project": f"'p' || (i % {PROJECTS})", "created_at": created, "rank": created}
    ended = f"{created} + 3600"
    new |= {"started_at": f"{created} + 60"} | ({} if status == "queued" else {"ended_at": ended, "pruned": "0"})
    for table, columns in (
        (Search, new | {"id": key, "measured_at": ended}),
        (Attempt, new | {"search_id": key}),
        (ArchitectureRow, {"search_id": key, "id": f"{key} || '-' || budget"}),
        (Event, {"search_id": key, "time": created}),
    ):
        where = f"{'id' if table is Search else 'search_id'} = :id"
        copy(connection, table, columns, where, search_id, 0, count)


def remove(engine: Engine, days: int) -> int:
    """Give up what a dispatcher would have given up `days` ago; how many parts that were."""
    work, removed = Work(engine), 0
    for part, kept in KEPT.items():
        while work.prune(part, Kept(float(kept + days))) is not None:
            removed += 1
    with engine.begin() as connection:  # as a dispatcher notes when it has removed the files
        connection.execute(text("UPDATE searches SET measured_at = ended_at WHERE measured_at IS NULL"))
    return removed


def measure(bench: Bench, engine: Engine, url: str, search_id: str) -> dict[str, Any]:
    """How long pages and claims take now, in milliseconds, and what the database weighs, in MB."""
    took: dict[str, Any] = {}
    with bench.serving(url) as service, httpx.Client(base_url=service, timeout=60, auth=Bearer()) as http:
        for name, path in PAGES.items():
            took[name] = summary(times(lambda: http.get(path.format(search_id)).raise_for_status()))  # noqa: B023
    work, room = Work(engine), Capacity.of([Node("node", 1, 0)])
    claims = []
    for _ in range(TIMES + 5):
        claimed: list[Search] = []
        claims.append(timed(lambda: claimed.extend(work.claim("year", room))))  # noqa: B023
        [one] = claimed
        work.move(one.id, one.lease_token or "", Status.QUEUED)
    took["claim"] = summary(claims[5:])
    size = "SELECT pg_database_size(current_database()) / 1e6::float8"
    rows = (
        "SELECT relname, n_live_tup, pg_total_relation_size(relid) / 1e6::float8 FROM pg_stat_user_tables "
        "ORDER BY 3 DESC"
    )
    with engine.connect() as connection:
        megabytes = float(connection.execute(text(size)).scalar_one())
        tables = {row[0]: {"rows": row[1], "megabytes": round(row[2], 1)} for row in connection.execute(text(rows))}
    return {"took": took, "megabytes": round(megabytes, 1), "tables": dict(list(tables.items())[:4])}


def times(do: Callable[[], object]) -> Sequence[float]:
    """What `do` takes, again and again, in milliseconds; the first few warm up."""
    return [timed(do) for _ in range(TIMES + 5)][5:]


def report(found: Sequence[dict[str, Any]]) -> str:
    """What was measured in each week as a table in Markdown."""
    names = list(found[0]["took"])
    lines = ["| week | searches | events | MB | " + " | ".join(f"{name}, p50 and p95" for name in names) + " |"]
    lines.append("|---" * (4 + len(names)) + "|")
    for one in found:
        rows = {name: f"{one['tables'].get(name, {'rows': 0})['rows']:,}" for name in ("searches", "events")}
        cells = [str(one["week"]), rows["searches"], rows["events"], f"{one['megabytes']:,.0f}"]
        cells += [f"{took['p50']:.1f}, {took['p95']:.1f}" for took in one["took"].values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
