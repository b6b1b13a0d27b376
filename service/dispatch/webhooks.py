"""Sends what the outbox holds to webhooks (`service.store.outbox`), beside the dispatcher and never in its way.

One event loop sends to many receivers at a time, some messages to each, and every attempt has a bound as a whole: a
receiver that trickles its answer is given up like one that says nothing. Nothing of an answer is read but its status,
so that nobody can use the service to read what only it can reach. A name is looked up each time, the addresses are
judged, and the connection goes to one of them: not by way of a proxy, and not where a redirect leads.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from nas_core.errors import InvalidValue
from service import notifications
from service.addresses import NowhereToSend, Resolve, addresses_of, resolve
from service.domain.receivers import SCHEMES, Network, check_notified, is_notified, sign
from service.store.webhooks import Attempt, Batch, WebhookStore

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
SEND_SECONDS = 10.0
"""How long an attempt may take, from the connection to the answer's status."""
MOST_WEBHOOKS = 32
"""Webhooks that are sent to at a time."""
MOST_NOTIFYING = 4
"""Of them notifications, each of which takes a process."""
MOST_ADDRESSES = 4
"""Of a name, tried one after the other until one accepts a connection."""
LONGEST_BACKOFF = 60.0
LONGEST_REASON = 200


class Sender:
    """Sends messages to webhooks until `stop` is called; `run` in a thread."""

    def __init__(
        self,
        engine: Engine,
        networks: Sequence[Network] = (),
        public_url: str | None = None,
        schemes: Sequence[str] = SCHEMES,
        resolve: Resolve = resolve,
    ) -> None:
        self.store, self.networks, self.public_url, self.resolve = WebhookStore(engine), networks, public_url, resolve
        self.schemes, self.notifying = schemes, asyncio.Semaphore(MOST_NOTIFYING)
        self.stopping = threading.Event()
        self.failures = 0
        """How often in a row the database did not answer."""

    def stop(self) -> None:
        """Make `run` return. What is being sent just then is sent again by whoever sends next."""
        self.stopping.set()

    def run(self) -> None:
        """Send what is due until `stop` is called."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_WEBHOOKS + 1, "webhook"))
        certificates = httpx.create_ssl_context()  # as SSL_CERT_FILE says, although the client does without proxies
        sending: set[asyncio.Task[None]] = set()
        kept = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            trust_env=False, verify=certificates, timeout=SEND_SECONDS, limits=kept, follow_redirects=False
        ) as client:
            while not self.stopping.is_set():
                pause = POLL_SECONDS
                try:
                    for batch in await asyncio.to_thread(self.store.claim, MOST_WEBHOOKS - len(sending)):
                        task = asyncio.create_task(self._send(client, batch))
                        sending.add(task)
                        task.add_done_callback(sending.discard)
                    self.failures = 0
                except Exception as error:
                    pause = self._failed(error)
                if sending:
                    await asyncio.wait(sending, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.to_thread(self.stopping.wait, pause)
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    def _failed(self, error: Exception) -> float:
        """Tell of what went wrong, once; returns how many seconds to wait."""
        self.failures += 1
        if self.failures == 1:
            away = isinstance(error, SQLAlchemyError)
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            log.warning("webhook messages cannot be sent; it will be tried again: %s", told, exc_info=not away)
        return min(LONGEST_BACKOFF, 2.0**self.failures)

    async def _send(self, client: httpx.AsyncClient, batch: Batch) -> None:
        """Send the messages of a batch at the same time, and note what came of them."""
        try:
            await self._send_all(client, batch)
        except asyncio.CancelledError:
            with suppress(SQLAlchemyError):
                self.store.note(batch, [])  # gives the lease back, so that nobody need wait for its end
            raise

    async def _send_all(self, client: httpx.AsyncClient, batch: Batch) -> None:
        attempts = await (self._notify(batch) if is_notified(batch.url) else self._post_all(client, batch))
        for attempt in attempts:
            if attempt.reason is not None:
                log.info("webhook %s did not accept %s: %s", batch.webhook_id, attempt.message_id, attempt.reason)
        try:
            off = await asyncio.to_thread(self.store.note, batch, attempts)
        except Exception as error:  # the lease runs out, and the messages are sent again
            self._failed(error)
            return
        if off is not None:
            log.warning("webhook %s is switched off: %s", batch.webhook_id, off)

    async def _notify(self, batch: Batch) -> list[Attempt]:
        """Send the messages of a batch as notifications, and say what came of them."""
        try:
            check_notified(batch.url, self.schemes)
        except InvalidValue as error:
            return [Attempt(one, 0.0, None, error.reason[:LONGEST_REASON]) for one, _ in batch.messages]
        async with self.notifying:
            documents = [self._linked(document) for _, document in batch.messages]
            came = await notifications.send(batch.url, documents, self.networks)
        pairs = zip(batch.messages, came, strict=True)
        return [Attempt(one, sent.seconds, None, sent.reason) for (one, _), sent in pairs]

    async def _post_all(self, client: httpx.AsyncClient, batch: Batch) -> list[Attempt]:
        began = time.monotonic()
        try:
            addresses = await asyncio.to_thread(addresses_of, batch.url, self.networks, self.resolve)
        except (NowhereToSend, InvalidValue) as error:
            seconds = round(time.monotonic() - began, 3)
            return [Attempt(one, seconds, None, str(error)[:LONGEST_REASON]) for one, _ in batch.messages]
        posts = [self._post(client, batch, addresses, *message) for message in batch.messages]
        return await asyncio.gather(*posts)

    async def _post(
        self,
        client: httpx.AsyncClient,
        batch: Batch,
        addresses: Sequence[str],
        message_id: str,
        document: Mapping[str, Any],
    ) -> Attempt:
        """Send one message, and say what came of it."""
        began, status, reason = time.monotonic(), None, None
        body = json.dumps(self._linked(document), ensure_ascii=False, separators=(",", ":")).encode()
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "Yoso",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(batch.secret, message_id, timestamp, body),
        }
        try:
            async with asyncio.timeout(SEND_SECONDS):
                status = await self._answer(client, httpx.URL(batch.url), addresses[:MOST_ADDRESSES], headers, body)
        except (TimeoutError, httpx.TimeoutException):
            reason = f"no answer within {SEND_SECONDS:g} s"
        except Exception as error:
            reason = _cause(error)[:LONGEST_REASON]
        else:
            if 300 <= status < 400:
                reason = f"answered {status}: Yoso does not follow redirects"
            elif not 200 <= status < 300:
                reason = f"answered {status}"
        return Attempt(message_id, round(time.monotonic() - began, 3), status, reason)

    async def _answer(
        self,
        client: httpx.AsyncClient,
        url: httpx.URL,
        addresses: Sequence[str],
        headers: Mapping[str, str],
        body: bytes,
    ) -> int:
        """The status that the first address answers with that accepts a connection; the certificate is the name's."""
        named = {"sni_hostname": url.raw_host.decode()}
        for number, address in enumerate(addresses, 1):
            to = url.copy_with(host=address)
            its = dict(headers) | {"host": url.netloc.decode()}
            request = client.build_request("POST", to, headers=its, content=body, extensions=named)
            try:
                response = await client.send(request, stream=True)
            except httpx.ConnectError:
                if number == len(addresses):
                    raise
                continue
            await response.aclose()
            return response.status_code
        raise AssertionError("a URL leads to an address, or nothing is sent")

    def _linked(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """A document with links below the URL that users open, where that is known."""
        data = document["data"]
        if self.public_url is None or "links" not in data:
            return document
        links = {name: self.public_url + path for name, path in data["links"].items()}
        return {**document, "data": {**data, "links": links}}


def _cause(error: BaseException) -> str:
    """Why there was no answer, in a few words, none of which are of the URL."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError) and at.strerror:
            return str(at.strerror)
        at = at.__cause__ or at.__context__
    return str(error) if isinstance(error, httpx.TransportError) and str(error) else type(error).__name__
