"""The service as one ASGI application: API, dashboard, and where wanted the dispatcher in a thread of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from nas_core.errors import InvalidValue
from nas_core.version import __version__
from service.access import Access
from service.api import (
    architectures,
    audit,
    cluster,
    datasets,
    estimates,
    health,
    logs,
    metrics,
    projects,
    schemas,
    searches,
    sweeps,
    tokens,
    webhooks,
)
from service.callers import Callers
from service.dashboard import add_dashboard
from service.dispatch.process import Dispatching
from service.folders.runs import Runs
from service.inspections import Inspections
from service.settings import Settings
from service.store.audit import Audit
from service.store.cluster import ClusterStore
from service.store.database import connect, prepare
from service.store.history import History
from service.store.logins import Logins
from service.store.projects import Projects
from service.store.searches import Searches
from service.store.sweeps import Sweeps
from service.store.tokens import Tokens
from service.store.webhooks import WebhookStore
from service.web import described, problems
from service.web.access_log import AccessLog, Routes
from service.web.below import Below
from service.web.context import Context
from service.web.doors import Doors
from service.web.heads import Heads
from service.web.limits import Limits, Streams
from service.web.turns import Checks
from service.webhooks import Webhooks


def create_app(settings: Settings, dispatch: bool = True) -> FastAPI:
    """The service for `settings`; without `dispatch` it only accepts and shows.

    Raises `InvalidValue` for a database it cannot use, and where others have tokens to which all folders would be open.
    """
    engine = connect(settings.database_url)
    prepare(engine)
    stored, runs = Searches(engine), Runs(settings.storage)
    dispatching = Dispatching(settings, stored, runs) if dispatch else None
    callers = Callers(settings, Logins(engine), Tokens(engine))
    access = Access(settings, callers, Audit(engine))
    if settings.any_folder and callers.tokens.any():
        engine.dispose()
        told = "with tokens of this service others could read any folder of this machine"
        raise InvalidValue("YOSO_DATA_ROOTS", None, told, "folders that datasets may lie in")
    context = Context(
        settings,
        stored,
        Projects(engine),
        Sweeps(engine),
        History(engine),
        runs,
        ClusterStore(engine),
        dispatching,
        callers,
        access,
        Webhooks(WebhookStore(engine), settings.webhook_networks, settings.notify_schemes),
        Inspections(settings.data_roots, settings.any_folder, settings.inspection_seconds),
        Checks(),
        Streams(settings.max_streams),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if dispatching is not None:
            dispatching.start()
        yield
        context.stopping.set()
        context.inspections.close()
        if dispatching is not None:
            dispatching.drain()
            dispatching.close()
        engine.dispose()

    app = FastAPI(
        title="Yoso",
        version=__version__,
        summary="Compact image networks under a FLOPs budget.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.context, app.state.dispatching = context, dispatching
    app.state.metrics = metrics.Metrics(context, __version__)
    app.add_middleware(Routes)
    app.add_middleware(Heads)
    app.add_middleware(Limits, settings=settings, access=access, streams=context.streams)
    app.add_middleware(Doors, settings=settings)
    app.add_middleware(Below, settings=settings)
    app.add_middleware(AccessLog, registry=app.state.metrics.registry, traced=settings.otlp_url is not None)
    problems.install(app)
    described.describe(app)
    for resource in (searches, logs, sweeps, architectures, datasets, estimates, projects, cluster):
        app.include_router(resource.router)
    for resource in (tokens, audit, webhooks, schemas, health, metrics):
        app.include_router(resource.router)
    add_dashboard(app)
    return app
