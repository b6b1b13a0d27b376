"""What one process takes on: the size of a body, how fast it comes, requests per client, and open streams of events.

All of it is refused here with a problem document, before the application sees the request; a body is handed on only
when it is there whole. Sizes of headers are uvicorn's to limit.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import anyio
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nas_core.wording import number_of
from service.access import Access
from service.callers import Caller
from service.counts import at_most
from service.settings import Settings, is_loopback
from service.store.changes import BY
from service.store.database import is_away
from service.web.doors import bearer
from service.web.problems import AWAY, answer

log = logging.getLogger(__name__)
BODY_SECONDS = 30.0
"""How long a body may take to arrive."""
MOST_OF_NOBODY = 16 * 1024
"""Bytes of a body that are read of whoever is not known: enough to sign in."""
RETRY_SECONDS = 2
"""When a client whose stream was ended, or not begun, may come back."""
RETRY_HINT = f"retry: {RETRY_SECONDS * 1000}\n\n".encode()


class Streams:
    """The open streams of events, at most `limit` of one client."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.ending = False
        """Whether no other stream may begin; those that are open end when `end` is called."""
        self._open: dict[anyio.CancelScope, str | None] = {}
        self._of: Counter[str | None] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def end(self) -> None:
        """End every stream and begin no other; to be called in the event loop."""
        self.ending = True
        for scope in list(self._open):
            scope.cancel()

    def begin(self, scope: anyio.CancelScope, client: str | None) -> bool:
        """Count the stream of `client` that runs in `scope`, unless it has too many."""
        if self.ending or self._of[client] >= self.limit:
            return False
        self._open[scope] = client
        self._of[client] += 1
        return True

    def over(self, scope: anyio.CancelScope) -> None:
        """Forget a stream."""
        if scope in self._open:
            client = self._open.pop(scope)
            self._of[client] -= 1
            if not self._of[client]:
                del self._of[client]


class Limits:
    """ASGI middleware that holds every request to the settings' limits."""

    def __init__(self, app: ASGIApp, settings: Settings, access: Access, streams: Streams) -> None:
        self.app, self.settings, self.access, self.streams = app, settings, access, streams
        self.callers = access.callers
        self.most = at_most(settings.rate, settings.rate_burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, request = Headers(scope=scope), HTTPConnection(scope)
        address = str((scope.get("client") or ("",))[0])
        token, own = bearer(request), request.cookies.get(self.callers.cookie, "")
        caller = self.callers.at_once(token, own)
        client = counted(caller, address)
        if client is not None and (seconds := await self.callers.counts.wait(self.most, client)):
            told = f"At most {number_of(self.most.amount, 'request')} in {number_of(self.most.multiples, 'second')}."
            await refuse(scope, receive, send, 429, "Too many requests", told, retry=seconds)
            return
        if caller is None and (token is not None or own):
            try:
                caller = await asyncio.to_thread(self.callers.asked, token, own)
            except SQLAlchemyError as error:
                if not is_away(error):
                    raise
                await refuse(scope, receive, send, 503, "Database unavailable", AWAY, retry=RETRY_SECONDS)
                return
            client = counted(caller, address)
        if caller is None and token is not None:
            if seconds := await asyncio.to_thread(self.callers.guesses.wait, address):
                told = "This address has sent too many wrong tokens."
                await refuse(scope, receive, send, 429, "Too many wrong tokens", told, retry=seconds)
                return
            await asyncio.to_thread(self.access.refused, token, "bearer", address)
        scope.setdefault("state", {})["caller"] = caller
        BY.set(caller.name if caller is not None else None)
        length = headers.get("content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            told = (
                f"Content-Length: not a number of bytes (got {length[:40]!r}); accepted: 0 to {self.settings.max_body}"
            )
            await refuse(scope, receive, send, 400, "Malformed header", told)
            return
        most = self.settings.max_body if caller is not None else min(self.settings.max_body, MOST_OF_NOBODY)
        if length is not None and (len(length) > 18 or int(length) > most):
            await self._too_large(scope, receive, send, most)
            return
        if length is not None or "transfer-encoding" in headers:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await self._body(receive, most)
            except TimeoutError:
                told = f"The body did not arrive within {BODY_SECONDS:g} seconds."
                await refuse(scope, receive, send, 408, "Body too slow", told)
                return
            except Disconnected:
                return
            if body is None:
                await self._too_large(scope, receive, send, most)
                return
            receive = replay(body, receive)
        await self._stream(scope, receive, send, client)

    async def _body(self, receive: Receive, most: int) -> bytes | None:
        """The whole body, or None as soon as it has more than `most` bytes, whatever its length was said to be."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > most:
                return None
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _too_large(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        told = f"At most {most} bytes are read; YOSO_MAX_BODY sets it."
        if most < self.settings.max_body:
            told = f"Of a request without a valid token at most {most} bytes are read."
        await refuse(scope, receive, send, 413, "Body too large", told)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, client: str | None) -> None:
        """Let the application answer; a stream of events counts for its client, and ends when the service does."""
        started = refused = ended = False
        with anyio.CancelScope() as answering:

            async def sending(message: Message) -> None:
                nonlocal started, refused
                if message["type"] == "http.response.start" and is_event_stream(message):
                    if not self.streams.begin(answering, client):
                        refused = True
                        answering.cancel()
                        await anyio.lowlevel.checkpoint()
                    started = True
                elif started:
                    message["more_body"] = True  # its last word is said below
                await send(message)

            try:
                await self.app(scope, receive, sending)
            except Exception as error:
                if not started or not causes(error, is_away):
                    raise
                log.warning("a stream ends because the database is unavailable")
                ended = True
            finally:
                self.streams.over(answering)
        if refused:
            told = "The service is stopping." if self.streams.ending else f"You have {self.streams.limit} open streams."
            await refuse(scope, receive, send, 503, "No more streams", told, retry=RETRY_SECONDS)
        elif started:
            hint = RETRY_HINT if ended or self.streams.ending else b""
            await send({"type": "http.response.body", "body": hint, "more_body": False})


class Disconnected(Exception):
    """The client has gone before its body was there."""


def causes(error: BaseException, wanted: Callable[[BaseException], bool]) -> bool:
    """Whether `error`, what led to it, or one of a group is what is `wanted`."""
    led = [error.__cause__, *(error.exceptions if isinstance(error, BaseExceptionGroup) else ())]
    return wanted(error) or any(causes(one, wanted) for one in led if one is not None)


def is_event_stream(start: Message) -> bool:
    """Whether a response that starts so is a stream of events."""
    return Headers(raw=start["headers"]).get("content-type", "").startswith("text/event-stream")


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out a body that was read already, and then what else there is."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(
    scope: Scope, receive: Receive, send: Send, status: int, title: str, detail: str, retry: int | None = None
) -> None:
    """Answer with a problem document; what is left of a body is not read, so the connection ends."""
    headers = {"Retry-After": str(retry)} if retry is not None else {"Connection": "close"}
    await answer(status, title, detail, headers=headers)(scope, receive, send)


def counted(caller: Caller | None, address: str) -> str | None:
    """Whom a request counts for: the token that it uses, else its address; None where nobody is limited.

    A wrong token counts for the address, or else whoever guesses tokens would never be slowed down.
    """
    if caller is not None and caller.own and is_loopback(address):
        return None
    return caller.key if caller is not None and caller.key is not None else address
