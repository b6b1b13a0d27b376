"""How long procrastinate takes to fetch one job of many: `URL QUEUED FETCHES`, milliseconds as a JSON list.

Run by an interpreter that has procrastinate, which Yoso does not need: `benchmarks.service` makes one.
"""

import asyncio
import json
import sys
import time

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status


async def main(url: str, queued: int, fetches: int) -> None:
    """Queue the jobs, twenty queues of them, and fetch some."""
    app = App(connector=PsycopgConnector(conninfo=url))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args) "
            "SELECT 'q' || (i %% 20), 'search', '{}' FROM generate_series(1, %(queued)s) AS i",
            queued=queued,
        )
        await app.connector.execute_query_async("ANALYZE procrastinate_jobs")
        worker = await app.job_manager.register_worker()
        took = []
        for _ in range(fetches):
            begin = time.perf_counter()
            job = await app.job_manager.fetch_job(queues=None, worker_id=worker)
            took.append((time.perf_counter() - begin) * 1000)
            assert job is not None
            await app.job_manager.finish_job(job, Status.FAILED, delete_job=False)
    print(json.dumps(took))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
