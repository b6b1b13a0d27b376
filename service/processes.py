"""The processes that a service is made of, and how each ends: in order, within ten seconds, with exit code 0.

On SIGTERM or SIGINT nothing new is claimed and the leases are handed back, readiness says 503 and open streams end
with a hint to come back. A second signal ends the process at once; what it held then is taken over by another when
the leases run out.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from dataclasses import replace
from types import FrameType
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from service import own_token
from service.app import create_app
from service.callers import grant_for_own_user
from service.connections import Connection
from service.dashboard.login import login_url
from service.dispatch.process import Dispatching
from service.folders.runs import Runs
from service.settings import Settings
from service.store.database import connect, prepare
from service.store.database import migrate as bring_up_to_date
from service.store.logins import digest
from service.store.searches import Searches
from service.store.single import hold
from service.web.context import Context

log = logging.getLogger(__name__)
LAME_SECONDS = 1.0
"""How long a replica that stops still answers, so that whoever asks for its readiness can learn of it."""
GRACE_SECONDS = 2
"""How long requests that are being answered may still take then."""


class Server(uvicorn.Server):
    """Uvicorn, which waits for open connections before it tells the application: here the application knows first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.context: Context = app.state.context
        self.dispatching: Dispatching | None = app.state.dispatching

    async def startup(self, sockets: Any = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        settings = self.context.settings
        for token in (token for token, grant in settings.tokens.items() if grant.own):
            own_token.publish(settings, token)
            if sys.stdout.isatty():
                base = settings.public_url or f"http://{settings.host}:{settings.port}"
                link = login_url(base, self.context.callers, digest(token))
                print(f"\n  Open {link}\n  The link signs you in once; `yoso login` prints another.\n", flush=True)
        log.info("Yoso listens at http://%s:%d; results go to %s", settings.host, settings.port, settings.storage)
        if settings.public_url is not None:
            log.info("its public URL is %s", settings.public_url)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop in order; at once when told twice."""
        if self.context.stopping.is_set():
            os._exit(128 + sig)
        self.context.stopping.set()
        self.context.streams.ending = True
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        """End the streams and the dispatcher while readiness can still be asked for, then stop listening."""
        self.context.streams.end()
        drained = asyncio.to_thread(self.dispatching.drain) if self.dispatching else asyncio.sleep(0, True)
        await asyncio.gather(drained, asyncio.sleep(LAME_SECONDS))
        for token in (token for token, grant in self.context.settings.tokens.items() if grant.own):
            own_token.withdraw(self.context.settings, token)
        await super().shutdown(sockets)


def serve(settings: Settings, dispatch: bool) -> int:
    """Run the API and the dashboard, with a dispatcher if asked for, until told to stop; returns the exit code.

    That is 1 where the dispatcher's last turn hung. Raises `InvalidValue` for a database it cannot use, or that another
    process uses where it is SQLite.
    """
    with hold(settings.database_url):
        if not settings.tokens:
            settings = replace(settings, tokens={own_token.kept(settings): grant_for_own_user()})
        app = create_app(settings, dispatch)
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            timeout_graceful_shutdown=GRACE_SECONDS,
            access_log=False,
            log_config=None,
            http=Connection,
            ws="none",  # or what is let in would depend on the packages that are there
            # Uvicorn would let any process of this machine say for whom it asks.
            forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", []),
        )
        server = Server(config, app)
        # What is there now stays: to look through all of it again and again would hold up answers.
        gc.collect()
        gc.freeze()
        server.run()
        return 0 if server.dispatching is None or server.dispatching.drain() else 1


def dispatch(settings: Settings) -> int:
    """Run a dispatcher alone until told to stop; returns the exit code, which is 1 where a turn hung.

    Raises `InvalidValue` for a database it cannot use, or that another process uses where it is SQLite.
    """
    with hold(settings.database_url):
        engine = connect(settings.database_url)
        prepare(engine)
        dispatching = Dispatching(settings, Searches(engine), Runs(settings.storage))
        asked: list[int] = []

        def stop(sig: int, frame: FrameType | None) -> None:
            if asked:
                os._exit(128 + sig)
            asked.append(sig)

        before = {sig: signal.signal(sig, stop) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            dispatching.start()
            while not asked and not dispatching.stuck:
                time.sleep(0.1)
            if not asked:
                log.error("the dispatcher has not taken a turn for a long time; its leases run out by themselves")
                return 1
            orderly = dispatching.drain()
            dispatching.close()
            engine.dispose()
            return 0 if orderly else 1
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def leave(code: int) -> NoReturn:
    """End the process; where a turn hangs, without waiting for its threads."""
    if code == 0:
        sys.exit(0)
    logging.shutdown()
    os._exit(code)


def migrate(settings: Settings, wait: float) -> None:
    """Bring the database up to date, waiting up to `wait` seconds for it to be there.

    Raises `InvalidValue` for a database it cannot use and `OSError` for one that is not there.
    """
    engine = connect(settings.database_url)
    give_up = time.monotonic() + wait
    try:
        while True:
            try:
                bring_up_to_date(engine)
                return
            except OperationalError as error:
                if time.monotonic() > give_up:
                    raise OSError(f"the database does not answer: {str(error.orig).strip()}") from error
                time.sleep(0.5)
    finally:
        engine.dispose()
