"""The service as one ASGI application: API, dashboard, and the dispatcher in a thread of its own."""

import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import FastAPI

from service.api import architectures, cluster, health, problems, projects, schemas, searches
from service.api.context import Context
from service.dashboard import add_dashboard
from service.dispatch.dispatcher import Dispatcher
from service.dispatch.executors.ray_jobs import Endpoint, RayJobs
from service.dispatch.local_ray import LocalRay
from service.dispatch.runs import Runs
from service.settings import Settings
from service.store.cluster import ClusterStore
from service.store.database import connect, migrate
from service.store.projects import Projects
from service.store.searches import Searches

log = logging.getLogger(__name__)


def create_app(settings: Settings, dispatch: bool = True) -> FastAPI:
    """The service for `settings`; without `dispatch` it only accepts and shows.

    Raises `InvalidValue` for a database it cannot use.
    """
    engine = connect(settings.database_url)
    migrate(engine)
    stored, runs = Searches(engine), Runs(settings.storage)
    local_ray = LocalRay(Path(settings.storage)) if dispatch and settings.ray_address is None else None
    jobs = RayJobs(local_ray.endpoint if local_ray else lambda: remote(settings))
    dispatcher = Dispatcher(stored, runs, jobs, settings.data_roots, ensure_ray=local_ray.ensure if local_ray else None)
    context = Context(settings, stored, Projects(engine), runs, ClusterStore(engine), dispatcher, threading.Event())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=dispatcher.run, name="dispatcher")
        if dispatch:
            thread.start()
        yield
        context.stopping.set()
        if dispatch:
            dispatcher.stop()
            thread.join()
        if local_ray is not None:
            local_ray.stop()
        jobs.close()
        engine.dispose()

    app = FastAPI(
        title="Yoso",
        version=own_version(),
        summary="Compact image networks under a FLOPs budget.",
        lifespan=lifespan,
    )
    app.state.context = context
    problems.install(app)
    for resource in (searches, architectures, projects, cluster, schemas, health):
        app.include_router(resource.router)
    add_dashboard(app)
    return app


def remote(settings: Settings) -> Endpoint:
    """The Ray cluster that the settings name, with the token from the environment where one is set."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token is None and (path := os.environ.get("RAY_AUTH_TOKEN_PATH")):
        token = Path(path).read_text().strip()
    return Endpoint(settings.ray_address or "", token)


def own_version() -> str:
    """The version of the installed package, or 0 where it runs from a bare checkout."""
    try:
        return version("yoso")
    except PackageNotFoundError:
        return "0"
